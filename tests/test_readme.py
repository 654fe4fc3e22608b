"""Tests of the README: its snippet, its numbers and the files that it names."""

import contextlib
import io
import json
import re
from collections.abc import Iterable
from itertools import pairwise, product
from math import isclose, isfinite
from pathlib import Path
from statistics import mean, stdev

from eqprop_np import sweep
from eqprop_np.figures import published_points

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")
FLAT = " ".join(README.split())
RESULTS = ROOT / "data" / "results"


def record(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text("utf-8"))


def test_the_snippet_prints_what_it_says() -> None:
    code, printed = re.search(r"```python\n(.*?)```\n\n```\n(.*?)```", README, re.DOTALL).groups()
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "README", "exec"), {})
    assert out.getvalue() == printed


def test_its_errors_are_recorded() -> None:
    first = record("p-1h-first-look")
    assert f"p-1h on mnist: test error {first['test_error']:.2f} % after {first['epochs']} epochs" in README
    bptt = record("p-1h-bptt")
    assert (
        f"| {bptt['epochs']} | {bptt['test_error']:.2f}, where EP has {first['test_error']:.2f} |" in README
    )
    assert bptt["epochs"] == first["epochs"]
    raw, averaged = (
        [f"{last(f'conv-validation{name}', 3, key):.2f}" for name in ("", "-exponential")]
        for key in ("test_error", "average_test_error")
    )
    assert f"the error was {raw[0]} % (`conv-validation.json`), and {raw[1]} % with rates times 0.87" in FLAT
    assert f"(`--average 0.999`) had {averaged[0]} and {averaged[1]} %" in FLAT
    for name, option in (("conv-augment", "--augment"), ("conv-augment2", "--augment 2")):
        error = f"{last(name, 3):.2f}, mean of the last three epochs"
        assert f"| conv `{option}` | {record(name)['epochs']} | {error} | `{name}.json` |" in README
    two, one = (
        mean(epoch["test_error"] for epoch in record(name)["history"][17:20])
        for name in ("conv-augment2-slow", "conv-augment")
    )
    assert f"two pixels had {two:.2f} % over epochs 18 to 20, where one had {one:.2f} %" in FLAT


def test_the_papers_results_are_those_of_the_records() -> None:
    """Printing the table also compares the settings of each record with those of the list."""
    lists = {name: sweep.read_list(ROOT / "data" / "lists" / f"{name}.txt") for name in ("table", "fig1c")}
    assert sweep.table(lists["table"], RESULTS / "paper") in README
    forms = re.findall(r"^\| (eb-1h.*?) \| 30 \| 0, 1, 2 \| (.*?) \|", README, re.MULTILINE)
    (_, ours), (_, authors) = forms
    assert f"EB-1h after 30 epochs is {authors} % instead of {ours} % (three seeds)" in FLAT
    names = {sweep._name(run.experiment, run.seed) for runs in lists.values() for run in runs}
    assert {path.stem for path in (RESULTS / "paper").glob("*-seed*.json")} <= names


def test_the_runs_of_eb_2h_with_one_sign_are_recorded() -> None:
    """They were stopped, because their errors rose."""
    ours, authors = (record(f"eb-2h-one-sided{form}") for form in ("", "-authors-code"))
    lowest, last = min(ours["history"], key=lambda epoch: epoch["test_error"]), ours["history"][-1]
    assert f"{lowest['test_error']:.2f} % after {lowest['epoch']} epochs" in FLAT
    assert (
        f"{last['test_error']:.2f} % after {last['epoch']} epochs, when "
        f"{100 * (1 - last['converged']):.0f} % of the first phases did not converge within T" in FLAT
    )
    lowest, last = min(authors["history"], key=lambda epoch: epoch["test_error"]), authors["history"][-1]
    assert (
        f"from {lowest['test_error']:.2f} % after {lowest['epoch']} to {last['test_error']:.2f} % "
        f"after {last['epoch']} epochs" in FLAT
    )


def test_the_runs_of_cvf_2h_are_recorded() -> None:
    old = {p["psi"]: p["test_error"] for p in published_points() if p["preset"] == "cvf-2h"}
    lines = []
    for path in (RESULTS / "paper").glob("cvf-2h-*.json"):
        run = json.loads(path.read_text("utf-8"))
        psi = run["configuration"]["experiment"]["psi"]
        assert run["epochs"] == (40 if psi in (45, 135) else 150)
        cells = [
            f"{mean(epoch['test_error'] for epoch in run['history'][end - 5 : end]):.2f} | "
            f"{run['history'][end - 1]['weight_angle']:.0f}°"
            if end <= run["epochs"]
            else "– | –"
            for end in (40, 150)
        ]
        lines.append(f"| {psi:g}° | {' | '.join(cells)} | {old[psi]:g} |")
    assert len(lines) == 5
    assert not missing(lines), missing(lines)
    straight, right_angle = (record(f"paper/cvf-2h-{psi}deg-seed0")["history"] for psi in (0, 90))
    *steady, first, second = [epoch["test_error"] for epoch in right_angle[143:]]
    assert f"epochs 144 to 148 have {min(steady):.2f} to {max(steady):.2f} %" in FLAT
    assert f"epochs 149 and 150 have {first:.2f} and {second:.2f} %" in FLAT
    jumps = [epoch["train_error"] for epoch in (straight[88], right_angle[119])]
    after = [epoch["train_error"] for epoch in (straight[89], right_angle[120])]
    assert f"{jumps[0]:.2f} % in epoch 89 at ψ = 0 and to {jumps[1]:.2f} % in epoch 120 at 90°" in FLAT
    assert all(2 * fallen < jump for jump, fallen in zip(jumps, after, strict=True))


def test_the_factor_in_training_time_is_recorded() -> None:
    runs = {name: [record(f"paper/{name}-seed{seed}") for seed in range(3)] for name in ("p-1h", "eb-1h")}
    epochs, minutes = {}, {}
    for name, error in product(runs, (2.2, 2.1)):
        needed = [sweep._epochs_to(run, error) for run in runs[name]]
        times = [n * epoch_time(run) for n, run in zip(needed, runs[name], strict=True) if isfinite(n)]
        epochs[name, error], minutes[name, error] = ", ".join(map(str, needed)), mean(times)
    discrete, real = epochs["p-1h", 2.2], epochs["eb-1h", 2.2]
    assert f"after {discrete} epochs (p-1h, seeds 0, 1, 2) and {real} epochs (eb-1h)" in FLAT
    factors = {error: minutes["eb-1h", error] / minutes["p-1h", error] for error in (2.2, 2.1)}
    assert f"a factor of {factors[2.2]:.1f} in time. At most 2.1 % takes {epochs['p-1h', 2.1]} epochs" in FLAT
    assert epochs["eb-1h", 2.1] == "19, inf, inf"
    assert f"after 19, which is {factors[2.1]:.1f} times as long" in FLAT


def test_its_best_error_is_recorded() -> None:
    runs = [record(f"conv-best-seed{seed}") for seed in range(2)]
    errors = ", ".join(f"{last(f'conv-best-seed{seed}', 3):.2f}" for seed in range(2))
    minutes = ", ".join(f"{run['seconds'] / 60:.0f}" for run in runs)
    assert f"| conv-best | {runs[0]['epochs']} | {errors} for seeds 0, 1 | {minutes} |" in README
    assert (
        f"The mean of the two is {mean(last(f'conv-best-seed{seed}', 3) for seed in range(2)):.3f} %." in FLAT
    )
    assert f"| conv-best | {runs[0]['epochs']} | {errors} for seeds 0, 1, mean of the last three " in README
    error = f"{runs[0]['test_error']:.2f} %"
    assert (
        f"conv-best on mnist: test error {error} (recorded after epoch {runs[0]['epochs']}: {error})"
        in README
    )
    assert {(run["tested_on"], run["train_size"]) for run in runs} == {("test set", 60_000)}
    glyphs = record("conv-best-glyphs")
    size, epochs, error = glyphs["train_size"], glyphs["epochs"], glyphs["test_error"]
    assert (
        f"(`--data glyphs --train-size {size} --epochs {epochs}`) the same recipe has {error:.2f} %" in FLAT
    )


def test_what_was_tried_on_held_out_images_is_recorded() -> None:
    held_out = {path.stem for path in (RESULTS / "held-out").glob("*.json")}
    assert {name for name in held_out if f"`{name}.json`" in README} == held_out
    for name in ("conv-validation", *sorted(held_out)):
        run = record(name if name == "conv-validation" else f"held-out/{name}")
        assert (run["tested_on"], run["seed"]) == ("held-out training images", 0)
        (line,) = (
            line for line in README.splitlines() if line.startswith("|") and f" `{name}.json` |" in line
        )
        if name.startswith("few-"):
            assert (run["train_size"], run["epochs"]) == (15_000, 4)
            time = f"{epoch_time(run) / epoch_time(record('held-out/few-conv')):.1f}"
            if name == "few-conv-haswell":  # slower for another reason than its options
                time = "–"
            assert f" | {run['test_error']:.2f} | {run['train_error']:.2f} | {time} | " in line
        else:
            error = mean(epoch["test_error"] for epoch in run["history"][-3:])
            assert f" | {run['epochs']} | {error:.2f} | {run['train_error']:.2f} | " in line


def test_the_cost_of_ep_is_recorded() -> None:
    runs = {
        rule: record(f"conv-best-readout{name}") for rule, name in (("EP", ""), ("implicit", "-implicit"))
    }
    for rule, run in runs.items():
        assert (run["rule"], run["seed"], run["epochs"]) == (rule.lower(), 0, 12)
        error = mean(epoch["test_error"] for epoch in run["history"][-3:])
        assert f"| {rule} | {error:.2f} | {run['train_error']:.2f} | `conv-best-readout" in README
    factor = epoch_time(runs["implicit"]) / epoch_time(runs["EP"])
    assert f"an epoch with the exact gradient takes {factor:.1f} times as long" in FLAT
    exact, ep = (record(f"held-out/few-{name}")["train_error"] for name in ("implicit", "conv"))
    assert (
        f"its training error was {exact:.2f} % (`few-implicit.json`), and EP's {ep:.2f} % (`few-conv.json`)"
        in FLAT
    )


def epoch_time(run: dict) -> float:
    """Return the time of the shortest epoch."""
    return min(b - a for a, b in pairwise([0.0, *(epoch["seconds"] for epoch in run["history"])]))


def test_its_weights_have_their_error() -> None:
    run = record("conv-augment")
    error = f"{run['test_error']:.2f} %"
    assert f"conv on mnist: test error {error} (recorded after epoch {run['epochs']}: {error})" in README


def test_fig1c_is_recorded() -> None:
    path = ROOT / "eqprop_np" / "data" / "fig1c" / "summary.json"
    points = json.loads(path.read_text("utf-8"))["points"]
    found: dict[tuple[str, float], list[dict]] = {}
    for point in points:
        psi = f"-{point['psi']:g}deg" if point["preset"].startswith("cvf") else ""
        name = f"{point['preset']}{psi}-seed{point['seed']}"
        if not name.startswith("eb-1h"):  # whose form of the authors' code has another name
            assert isclose(point["test_error"], last(f"paper/{name}", 5), rel_tol=1e-12)
        found.setdefault((point["preset"], point["psi"]), []).append(point)
    errors = {key: mean(point["test_error"] for point in group) for key, group in found.items()}
    angles = {
        key: {name: angle["mean"] for name, angle in group[0]["angles"].items()}
        for key, group in found.items()
    }
    for preset, name in (("p-1h", "EP-1h"), ("p-2h", "EP-2h"), ("cep-1h", "C-EP-1h"), ("cep-2h", "C-EP-2h")):
        angle = angles[preset, 0]["published"]
        assert f"{errors[preset, 0]:.2f} % at {angle:.0f}° ({name})" in FLAT
    cvf = [key for key in errors if key[0] == "cvf-1h"]
    low, high = (f(errors[key] for key in cvf) for f in (min, max))
    near, far = (f(angles[key]["published"] for key in cvf) for f in (min, max))
    assert f"{low:.2f} to {high:.2f} % at {near:.0f}° to {far:.0f}° (C-VF-1h)" in FLAT
    two = angles["cvf-2h", 0]["published"]
    assert f"{errors['cvf-2h', 0]:.2f} % at {two:.0f}° (C-VF-2h, ψ = 0)" in FLAT
    old = {(point["preset"], point["psi"]): point["angle"] for point in published_points()}
    distances = [abs(angles[key]["published"] - old[key]) for key in cvf]
    assert (
        f"{mean(distances):.1f}° from the published ones in the mean, {max(distances):.1f}° at most" in FLAT
    )
    moved = angles["cep-1h", 0]["published, moved weights"]
    assert f"C-EP-1h has {angles['cep-1h', 0]['published']:.0f}° where the paper has 50°" in FLAT
    assert f"after the weights have moved, as the authors' code does, the angle is {moved:.0f}°" in FLAT


def test_the_runs_of_cvf_1h_are_recorded() -> None:
    old = {p["psi"]: p["test_error"] for p in published_points() if p["preset"] == "cvf-1h"}
    first, end, errors = {}, {}, {}
    for psi in old:
        names = [f"paper/cvf-1h-{psi:g}deg-seed{seed}" for seed in range(3)]
        histories = [record(name)["history"] for name in names]
        assert {len(history) for history in histories} == {100}
        first[psi] = mean(history[0]["test_error"] for history in histories)
        end[psi] = [history[-1]["weight_angle"] for history in histories]
        errors[psi] = [last(name, 5) for name in names]
    lines = [
        f"| {psi:g}° | {first[psi]:.1f} | {mean(errors[psi]):.2f} ± {stdev(errors[psi]):.2f} "
        f"| {mean(end[psi]):.0f}° | {old[psi]:g} |"
        for psi in old
    ]
    lines.append(f"{first[0]:.1f} % at ψ = 0 after one epoch, {first[180]:.1f} % at 180°")
    ends = [angle for angles in end.values() for angle in angles]
    lines.append(f"until their angles lie within {max(ends) - min(ends):.0f}° of each other")
    assert len(ends) == 27
    runs = [record(f"paper/cvf-1h-{psi}deg-seed1")["history"][95:] for psi in (45, 135)]
    one, two = (run.pop(2)["test_error"] for run in runs)  # epoch 98
    others = max(epoch["test_error"] for run in runs for epoch in run)
    lines.append(
        f"epoch 98 has {one:.2f} and {two:.2f} %, and the other four epochs have at most {others:.2f} %."
    )
    assert sorted(errors, key=lambda psi: mean(errors[psi]))[-2:] == [45, 135]
    assert not missing(lines), missing(lines)


def test_the_rank_correlations_are_recorded() -> None:
    lines = (RESULTS / "fig1c-ranks.txt").read_text("utf-8").splitlines()[1:]
    ranks = {tuple(line.split(": ")[0].rsplit(", ", 1)): line.split(": ")[1] for line in lines}
    for (runs, angle), rank in ranks.items():
        if "nan" in rank:  # too few runs for an interval
            continue
        assert f"| {runs} | {angle.removeprefix('angle ')} | {rank} |" in README


def test_its_errors_with_untied_weights_are_recorded() -> None:
    for name, rule in (("C-VF", "cvf"), ("AsymEP", "asymep"), ("implicit", "implicit")):
        runs = [record(f"{rule}-180deg-seed{seed}") for seed in range(3)]
        for seed, run in enumerate(runs):
            experiment = run["configuration"]["experiment"]
            assert (run["seed"], run["epochs"], run["rule"], experiment["psi"]) == (seed, 10, rule, 180)
        (line,) = re.findall(rf"\| {name} \| `(.*)` \| (.*) \| `{rule}-180deg-seed0.json`, … \|", README)
        options, errors = line
        assert f"--preset {runs[0]['preset']} " in options
        assert options.endswith("--epochs 10")
        assert errors == ", ".join(f"{run['test_error']:.2f}" for run in runs)
        if rule == "implicit":
            assert f"--free-steps {runs[0]['configuration']['experiment']['phases']['free_steps']}" in options
    history = record("implicit-180deg-30steps")["history"]
    errors = [epoch["test_error"] for epoch in history]
    assert f"seed 0 had {errors[9]:.2f} % after 10 epochs. In the 20 epochs after that" in FLAT
    assert f"its error was between {min(errors[10:]):.2f} and {max(errors):.2f} %" in FLAT
    assert f"in up to {100 * (1 - min(epoch['converged'] for epoch in history)):.1f} % of the batches" in FLAT


def test_its_errors_with_a_readout_are_recorded() -> None:
    for seed, number, text, squared, readout in (
        (0, 5, "five", "p-2h", "p-2h-readout"),
        (1, 3, "three", "conv-squared-error", "conv-readout"),
    ):
        runs = record(squared), record(readout)
        preset = runs[0]["preset"]
        assert [(run["preset"], run["seed"], run["epochs"]) for run in runs] == [
            (preset, seed, runs[0]["epochs"])
        ] * 2
        errors = f"{last(squared, number):.2f} | {last(readout, number):.2f}"
        epochs = f"{runs[0]['epochs']}, mean of the last {text}"
        assert f"| {preset}, seed {seed} | {epochs} | {errors} | `{squared}.json`, `{readout}.json` |" in FLAT
        rates = runs[1]["configuration"]["experiment"]["training"]["learning_rates"]
        assert f"with the cross-entropy are {' '.join(map(str, rates))} in both networks" in FLAT


def test_the_convergence_of_the_cnn_is_recorded() -> None:
    *lines, whole, _ = (RESULTS / "conv-convergence.txt").read_text("utf-8").splitlines()
    cosines, times = {}, {}
    for line in lines:
        name, rest = line.split(": cosines ")
        found, time = rest.split(", time ")
        cosines[name], times[name] = [float(word) for word in found.split()], time
    early, trained = (f"{when}, per sample" for when in ("after 400 batches", "trained"))
    ranges = {name: f"{min(cosines[name]):.2f} to {max(cosines[name]):.2f}" for name in (early, trained)}
    assert (
        f"is {ranges[early]} after 400 batches and {ranges[trained]} for a trained network, not less than if "
        f"the batch stops as a whole, in {times[early]} and {times[trained]} of the time" in FLAT
    )
    for name in (early, trained):
        assert all(a >= b for a, b in zip(cosines[name], cosines[name.replace("per sample", "whole batch")],
                                          strict=True))  # fmt: skip
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert f"takes {times[trained]} to {times[early]} of the time" in changelog
    changed, error = re.search(r"(\d+) of 10000 if .* and ([\d.]+) %", whole).groups()
    assert f"{changed} of the 10,000 images have another class, and the test error is {error} %" in FLAT


def test_the_trials_of_cvf_are_recorded() -> None:
    lines = (RESULTS / "cvf-failure.txt").read_text("utf-8").splitlines()[1:]
    trials = {name: re.search("test errors ([0-9 ]+) %", rest)[1].split() for name, _, rest in
              (line.partition(": ") for line in lines)}  # fmt: skip
    ends = {name: int(errors[-1]) for name, errors in trials.items()}
    group = ("flips on the forward weights", "b1 held", "initial weights × 2", "β always positive", "K = 30")
    found = [ends[name] for name in group]
    assert f"the error ends at {min(found)} to {max(found)} % with" in FLAT
    assert f"at {ends['K = 5']} and {ends['β always negative']} % with K = 5 and with β always" in FLAT
    assert trials["T = 20"] == trials["T = 100"] == trials["as the preset"]
    before, after = trials["as the preset"][-2:]
    assert f"the preset had {before} % after 2625 batches and {after} % after 3000" in FLAT
    before, after = trials["initial weights × 0.5"][-2:]
    assert f"half as large gave {before} % and {after} %" in FLAT
    two = trials["two hidden layers"]
    assert f"reached {two[3]} % after 1500 batches and ended at {two[-1]} %" in FLAT
    scaled = [int(e) for n in ("0.5", "2") for e in trials[f"two hidden layers, weights × {n}"]]
    assert f"they did not learn ({min(scaled)} to {max(scaled)} %)" in FLAT


def last(name: str, epochs: int, key: str = "test_error") -> float:
    """Return the mean test error over the last epochs of a run."""
    return mean(epoch[key] for epoch in record(name)["history"][-epochs:])


def test_records_are_of_committed_code_and_mnist() -> None:
    for path in RESULTS.rglob("*.json"):
        if path.name == "summary.json" or path.parent.name == "angles":  # of a sweep
            continue
        run = json.loads(path.read_text("utf-8"))
        assert run["dataset"] == ("glyphs (not MNIST)" if path.stem.endswith("-glyphs") else "mnist"), path
        assert re.fullmatch(r"[0-9a-f]{40}", run["git_commit"]), path


def benchmark(name: str) -> dict:
    return json.loads((ROOT / "data" / "benchmark" / f"{name}.json").read_text("utf-8"))


def missing(lines: Iterable[str]) -> str:
    """Return those of the lines that the README lacks, to be pasted into it."""
    return "\n".join(line for line in lines if line not in FLAT)


def test_its_costs_are_recorded() -> None:
    presets = benchmark("presets")["presets"]
    lines = [
        f"| {name}{' (centred)' if name in ('conv', 'eb-2h') else ''} | {cost['to_backpropagation']:.1f} "
        f"| {cost['seconds_per_epoch']:.1f} | {cost['mm_per_epoch']:.0f} |"
        for name, cost in presets.items()
    ]
    gains = " and ".join(f"{presets[name]['gain']:.1f} ({name})" for name in ("conv", "conv-best"))
    lines.append(f"On two idle cores they are {gains} times as fast as one.")
    one, two = benchmark("presets")["to the letter"]
    lines.append(
        f"real time costs {one['ratio']:.1f} times as much as discrete time for one hidden layer and "
        f"{two['ratio']:.1f} times for two"
    )
    lines.append(
        f"explain a factor of {one['steps']:.1f} and {two['steps']:.1f}, and the remaining "
        f"{one['per_step']:.2f} and {two['per_step']:.2f} are"
    )
    assert not missing(lines), missing(lines)


def test_its_exponents_are_recorded() -> None:
    scaling = benchmark("scaling")["scaling"]
    lines = []
    for name, settings in scaling.items():
        for setting, measured in settings.items():
            found = measured["exponents"]
            numbers = " | ".join(f"{found[name]:.2f}" for name in ("seconds", "work", "steps", "memory"))
            lines.append(f"| {name}, {setting} | {numbers} |")
    one, two, three = (round(point["steps"]) for point in scaling["p-1h"]["depth"]["points"])
    presets = benchmark("presets")["presets"]
    one_worker, two_workers = (point["seconds"] for point in scaling["p-1h"]["workers"]["points"])
    lines.append(f"make p-1h {two_workers / one_worker:.0f} times as slow,")
    lines.append(
        f"{one}, {two} and {three} steps for one, two and three layers. Over-relaxation shortens this: "
        f"p-2h and p-3h take {presets['p-2h']['steps']:.0f} and {presets['p-3h']['steps']:.0f}."
    )
    assert not missing(lines), missing(lines)


def test_the_costs_are_of_committed_code_and_mnist() -> None:
    for name in ("presets", "scaling"):
        assert benchmark(name)["dataset"] == "mnist"
        assert re.fullmatch(r"[0-9a-f]{40}", benchmark(name)["git_commit"])


def test_every_file_that_it_names_exists() -> None:
    names = re.findall(r"`((?:[\w/-]+)\.(?:py|png))`|\]\(([\w/.-]+)\)", README)
    for name in filter(None, (a or b for a, b in names)):
        if name not in ("curves.png",):
            assert (ROOT / name).exists() or (ROOT / "eqprop_np" / name).exists(), name
