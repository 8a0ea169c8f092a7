"""The benchmark as text."""

from __future__ import annotations

from typing import Any


def render(result: dict[str, Any]) -> str:
    """A table for people; every figure of the JSON form stands in it."""
    lines = [f"bundle {result['bundle']}, {result['unit']} (median, p95, minimum)"]
    for section in ("front_end", "engines", "pipeline"):
        lines.append(f"\n{section.replace('_', ' ')}")
        for name, row in result[section].items():
            factor = f"   real-time factor {row['real_time_factor']:.6f}" if "real_time_factor" in row else ""
            lines.append(f"  {name:34s}{row['median_us']:10.2f}{row['p95_us']:10.2f}{row['min_us']:10.2f}{factor}")
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
