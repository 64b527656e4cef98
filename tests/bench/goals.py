"""The goals as ratios: from measurements to rows with a verdict. README.md says what the rows are."""
import math
import statistics

STEP = "bench_cpu, 8x256 tokens"  # what a whole step computes
# row: what is compared, must, target. `at_most`: smaller is better.
ROWS = {
    1: "product / peak, f32, M >= 256, NN and NT",
    2: "product / peak, bf16, M >= 256, NN and NT",
    3: "product / peak, weight gradient (TN)",
    4: "product / oneDNN unpacked, geometric mean of all shapes",
    5: "grouped experts / peak, packed weights",
    6: "product bf16 / f32, same shape",
    7: "all products of a step (replay) / peak, 2 threads",
    8: "whole step time / replay time, 2 threads",
    9: "tok/s, ours f32 / tuned PyTorch 1.13 f32, 2 threads",
    10: "tok/s, ours bf16 / tuned PyTorch 1.13 bf16 autocast",
    11: "tok/s, ours bf16 / tuned PyTorch 1.13 f32",
    12: "tok/s, ours bf16 / ours f32, 2 threads",
    14: "AdamW bytes/s (28 B a parameter) / the fastest stream",
    15: "tok/s, 2 threads / 1 thread, bf16",
    16: "tok/s, 2 ranks x 1 thread / 1 rank x 2 threads",
    17: "reduce-scatter, MPI_Reduce_scatter_block / ours, 2 ranks",
    20: "large heap allocations (64 KiB and more) and mmap in a step",
    21: "tok/s, ours fp8 / ours bf16, 2 threads; fp32 beside them",
}


def geometric_mean(values):
    return math.exp(statistics.fmean(math.log(v) for v in values))


def size_text(p):
    return "{m:.0f}x{n:.0f}x{k:.0f} {layout}".format(**p)


def result(row, what, value, must, target, **more):
    """One line. `more`: size, seconds, flops (per second), share, peer (seconds), at_most, note."""
    at_most = more.pop("at_most", False)
    if must is None:
        verdict = "no bar"
    elif (value > must) if at_most else (value < must):
        verdict = "MISSED"
    else:
        verdict = "target" if ((value <= target) if at_most else (value >= target)) else "ok"
    return dict(row=row, what=what, ratio=value, must=must, target=target, verdict=verdict, **more)


def not_measured(row, reason):
    return {"row": row, "what": ROWS[row], "verdict": f"not measured: {reason}"}


def share_of(p):
    return p["flops"] / p["seconds"] / p["peak"]


def worst_product(row, what, products, must, target):
    """The worst of several products stands for the row; the mean is told beside it."""
    shares = [share_of(p) for p in products]
    worst = min(products, key=share_of)
    return result(row, what, share_of(worst), must, target,
                  size="{} {} thr".format(size_text(worst), int(worst["threads"])),
                  seconds=worst["seconds"], flops=worst["flops"] / worst["seconds"], share=share_of(worst),
                  peer=worst.get("onednn_seconds"), note=f"worst of {len(shares)}; mean {geometric_mean(shares):.2f}")


def means(products):
    """Rate and share of several products."""
    return {"flops": geometric_mean(p["flops"] / p["seconds"] for p in products),
            "share": geometric_mean(map(share_of, products))}


def judge_products(rows, measured):
    products = [m for m in measured if m["what"] == "product"]
    out = []
    for row, dtype, must, target in ((1, "f32", 0.82, 0.90), (2, "bf16", 0.80, 0.90)):
        for threads in (1, 2) if row in rows else ():
            chosen = [p for p in products if p["dtype"] == dtype and p["layout"] != "TN" and p["m"] >= 256
                      and p["threads"] == threads]
            out.append(worst_product(row, f"{ROWS[row]}, {threads} thr", chosen, must, target))
    for dtype in ("f32", "bf16") if 3 in rows else ():
        chosen = [p for p in products if p["layout"] == "TN" and p["dtype"] == dtype]
        out.append(worst_product(3, f"{ROWS[3]}, {dtype}", chosen, 0.72, 0.85))
    if 4 in rows:
        compared = [p for p in products if "onednn_seconds" in p]
        ratios = [p["onednn_seconds"] / p["seconds"] for p in compared]
        if ratios:
            out.append(result(4, ROWS[4], geometric_mean(ratios), 0.95, 1.05, size=f"{len(ratios)} products",
                              **means(compared), note=f"means; worst ratio {min(ratios):.2f}"))
        else:
            out.append(not_measured(4, "oneDNN not installed (apt-get install libdnnl-dev)"))
    if 6 in rows:
        by_shape = {}
        for p in products:
            by_shape.setdefault((size_text(p), p["threads"]), {})[p["dtype"]] = p["seconds"]
        ratios = [pair["f32"] / pair["bf16"] for pair in by_shape.values()]
        out.append(result(6, ROWS[6], geometric_mean(ratios), 1.75, 1.9, size=f"{len(ratios)} shapes, bf16",
                          **means([p for p in products if p["dtype"] == "bf16"]),
                          note=f"means; worst ratio {min(ratios):.2f}"))
    return out


def judge_grouped(measured):
    out = []
    for rows_each, must, target in ((128, 0.75, 0.85), (32, 0.50, 0.70)):
        chosen = [m for m in measured if m["what"] == "grouped" and m["rows"] == rows_each]
        worst = min(chosen, key=share_of)
        out.append(result(5, f"{ROWS[5]}, {rows_each} rows each", share_of(worst), must, target,
                          size="{experts:.0f}x{rows:.0f}x{n:.0f}x{k:.0f} {dtype} {threads:.0f} thr".format(**worst),
                          seconds=worst["seconds"], flops=worst["flops"] / worst["seconds"],
                          share=share_of(worst), note=f"worst of {len(chosen)}"))
    return out


class Steps:
    """Medians over the rounds."""

    def __init__(self, measured):
        self.measured = measured

    def median(self, field, **where):
        values = [m[field] for m in self.measured if all(m.get(k) == v for k, v in where.items())]
        return statistics.median(values) if values else None

    def ours(self, name, field="tokens_per_second"):
        return self.median(field, what="steps", name=name)

    def columns(self, name):
        """Of a line about our steps."""
        share = self.ours(name, "share_of_peak")
        return {"size": STEP, "seconds": self.ours(name, "seconds"), "share": share,
                "flops": share * self.ours(name, "peak")}

    def torch(self, which, precision, field="tokens_per_second"):
        return self.median(field, what="torch", which=which, precision=precision)


def judge_replay(rows, steps):
    out = []
    for dtype, name, limit, goal in (("f32", "f32x2", 1.25, 1.10), ("bf16", "bf16x2", 1.40, 1.20)):
        where = {"what": "replay", "dtype": dtype, "threads": 2}
        seconds, flops, peak = (steps.median(f, **where) for f in ("seconds", "flops", "peak"))
        if 7 in rows:
            share = flops / seconds / peak
            out.append(result(7, f"{ROWS[7]}, {dtype}", share, 0.77, 0.85, size=STEP, seconds=seconds,
                              flops=flops / seconds, share=share))
        if 8 in rows:
            step = steps.ours(name, "seconds")
            without = seconds - steps.median("attention_seconds", **where)
            out.append(result(8, f"{ROWS[8]}, {dtype}", step / seconds, limit, goal, at_most=True,
                              **steps.columns(name), peer=seconds,
                              note=f"replay without attention: {step / without:.2f}"))
    return out


def judge_torch(rows, steps, torch, has_openblas):
    out = []
    bars = {9: ("f32x2", "fp32", 1.2, 1.5), 10: ("bf16x2", "bf16", 1.6, 2.1), 11: ("bf16x2", "fp32", 2.2, 2.7)}
    for row, (name, precision, must, target) in bars.items():
        if row not in rows:
            continue
        ours = steps.ours(name)
        for which in ("tuned", "current"):
            theirs = steps.torch(which, precision)
            if theirs is None:
                if which == "current":
                    continue
                package = "libopenblas0-openmp" if "tuned" in torch else "python3-torch libopenblas0-openmp"
                out.append(not_measured(row, f"{package} not installed (apt-get install {package})"))
                continue
            tuned = which == "tuned"
            what = ROWS[row] if tuned else f"  beside it: PyTorch {torch[which][1]} {precision}"
            out.append(result(row, what, ours / theirs, must if tuned else None, target,
                              **steps.columns(name), peer=steps.torch(which, precision, "seconds"),
                              note=f"{ours:.0f} and {theirs:.0f} tok/s"))
    return out


def judge_steps(rows, steps):
    out = []
    pairs = {12: [("bf16x2", "f32x2", 1.6, 1.85, "")], 15: [("bf16x2", "bf16x1", 1.8, 1.95, "")],
             16: [("bf16r2", "bf16x2", 0.85, 0.95, ", bf16"), ("f32r2", "f32x2", 0.85, 0.95, ", f32")]}
    for row in sorted(rows & set(pairs)):
        for ours, base, must, target, suffix in pairs[row]:
            out.append(result(row, ROWS[row] + suffix, steps.ours(ours) / steps.ours(base), must, target,
                              **steps.columns(ours), peer=steps.ours(base, "seconds"),
                              note=f"{steps.ours(ours):.0f} and {steps.ours(base):.0f} tok/s"))
    return out


def judge_precisions(steps):
    """Tokens/s of the three precisions, measured in turns."""
    names = {"FP32": "f32x2", "BF16": "bf16x2", "FP8": "fp8x2"}
    speeds = {precision: steps.ours(name) for precision, name in names.items()}
    note = ", ".join(f"{precision} {speed:.0f}" for precision, speed in speeds.items()) + " tok/s"
    return [result(21, ROWS[21], speeds["FP8"] / speeds["BF16"], 0.5, 0.7, **steps.columns("fp8x2"),
                   peer=steps.ours("bf16x2", "seconds"), note=note)]


def judge_memory(rows, measured):
    out = []
    if 14 in rows:
        for m in measured:
            if m["what"] == "loop" and m["name"] == "AdamW 16Mi f32":
                rate = m["elements"] * m["bytes_per_element"] / m["seconds"]
                out.append(result(14, f"{ROWS[14]}, {m['threads']:.0f} thr", rate / m["stream_bytes_per_second"],
                                  0.8, 0.95, size="16 Mi parameters", seconds=m["seconds"],
                                  note=f"{rate / 1e9:.1f} of {m['stream_bytes_per_second'] / 1e9:.1f} GB/s"))
    if 17 in rows:
        for m in measured:
            if m["what"] == "collective" and m["peer"] == "MPI_Reduce_scatter_block" and m["bytes"] >= 1 << 20:
                out.append(result(17, ROWS[17], m["peer_seconds"] / m["seconds"], 2.0, 4.0,
                                  size=f"{m['bytes'] / (1 << 20):.0f} MiB", seconds=m["seconds"],
                                  peer=m["peer_seconds"], note=f"{m['wrong']:.0f} wrong"))
    if 20 in rows:
        for m in measured:
            if m["what"] == "allocations":
                out.append(result(20, f"{ROWS[20]}, {m['precision']}", m["large"] + m["mappings"], 0, 0, at_most=True,
                                  note=f"{m['calls']:.0f} small ones, {m['bytes'] / 1024:.0f} KiB, "
                                       f"largest {m['largest']:.0f} B"))
    return out


def judge(rows, measured, torch, has_openblas):
    """All lines of the rows asked for, in order."""
    steps, out = Steps(measured), []
    if rows & {1, 2, 3, 4, 6}:
        out += judge_products(rows, measured)
    if 5 in rows:
        out += judge_grouped(measured)
    if rows & {7, 8}:
        out += judge_replay(rows, steps)
    out += judge_torch(rows, steps, torch, has_openblas)
    out += judge_steps(rows, steps)
    if 21 in rows:
        out += judge_precisions(steps)
    out += judge_memory(rows, measured)
    return sorted(out, key=lambda r: r["row"])


def print_table(results):
    def number(value, form, scale=1):
        return "-" if value is None else form.format(value * scale)

    print(f"{'row':>3}  {'what':<68} {'size':<26} {'ms':>9} {'GFLOP/s':>8} {'of peak':>7} {'peer ms':>9} "
          f"{'ratio':>6} {'must':>5} {'target':>6}  verdict")
    for r in results:
        if "ratio" not in r:
            print(f"{r['row']:>3}  {r['what']:<68} {r['verdict']}")
            continue
        print(f"{r['row']:>3}  {r['what']:<68} {r.get('size', '-'):<26} {number(r.get('seconds'), '{:.3f}', 1e3):>9} "
              f"{number(r.get('flops'), '{:.1f}', 1e-9):>8} {number(r.get('share'), '{:.1%}'):>7} "
              f"{number(r.get('peer'), '{:.3f}', 1e3):>9} {r['ratio']:>6.2f} {number(r['must'], '{:g}'):>5} "
              f"{number(r['target'], '{:g}'):>6}  {r['verdict']:<6}  {r.get('note', '')}".rstrip())
    missed = sum(r["verdict"] == "MISSED" for r in results)
    absent = sum(r["verdict"].startswith("not measured") for r in results)
    print(f"{len(results) - missed - absent} ok, {missed} MISSED, {absent} not measured")
