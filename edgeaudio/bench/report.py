"""The benchmark as text."""

from __future__ import annotations

from typing import Any


def render(result: dict[str, Any]) -> str:
    """A table for people; every figure of the JSON form stands in it."""
    heard = f"{result['audio']['seconds']:g} s of audio with {result['audio']['events']} events"
    lines = [f"bundle {result['bundle']}, {heard}, {result['unit']} (median, p95, minimum, times the fastest)"]
    for section in ("front_end", "engines", "pipeline"):
        lines.append(f"\n{section.replace('_', ' ')}")
        fastest = min(row["median_us"] for row in result[section].values())
        for name, row in result[section].items():
            times = "".join(f"{row[key]:10.2f}" for key in ("median_us", "p95_us", "min_us"))
            lines.append(f"  {name:36s}{times}{row['median_us'] / fastest:8.2f}x{_factors(row)}")
    lines += [f"  not measured: {name}: {reason}" for name, reason in result["not_measured"].items()]
    lines += [f"  {engine} is {version}" for engine, version in result["engine_versions"].items()]
    lines += [
        f"  ratio to pymicro-features fed 10 ms: {name:16s}{ratio:6.2f}"
        for name, ratio in result["front_end_ratio_to_pymicro_features"].items()
    ]
    lines.append("\ncold start")
    for engine, row in result["cold_start"].items():
        lines.append(f"  {engine:14s}" + "   ".join(f"{key.replace('_', ' ')} {value:g}" for key, value in row.items()))
    lines.append("\ninstalled (bytes)")
    lines += [f"  {name:26s}{size:10d}" for name, size in result["installed_bytes"].items()]
    lines.append("\nsizes (bytes)")
    lines += [f"  {name:26s}{size:10d}" for name, size in result["sizes_bytes"].items()]
    return "\n".join(lines)


def _factors(row: dict[str, float]) -> str:
    if "real_time_factor" not in row:
        return ""
    return f"   real-time factor {row['real_time_factor']:.6f}, p95 {row['real_time_factor_p95']:.6f}"
