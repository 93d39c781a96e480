"""The report of a batch as CSV, in document 002's sections, with Pentimento's own after them.

A file name may be a formula. A cell that begins like one (=, +, -, @, tab, carriage return) gets an apostrophe in
front, so that a spreadsheet shows it and does not compute it; numbers are left alone.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any, Final

__all__ = ["csv_report"]

# The last four are the wide forms of the first four, which some spreadsheets take for the same.
_FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")

Row = Sequence[Any]


def csv_report(result: dict[str, Any], *, status: str, batch_id: str) -> bytes:
    """The report, in UTF-8 with CRLF as RFC 4180 has it.

    Args:
        result: a batch in document 002's words (BatchAnalysisResult), as `rest/screening.py` makes it.
        status: processing, completed, failed or interrupted.
        batch_id: of the batch.
    """
    summary = result["summary"]
    rows: list[Row] = [
        ("BATCH DECISION STATISTICS",),
        ("Total Images", result["total_images"]),
        ("Processed", result["processed"]),
        ("Failed", result["failed"]),
        *((name, summary[name]) for name in _DECISIONS),
        (),
        ("ANALYSIS RESULTS",),
        (
            "Filename",
            "Final Decision",
            "Decision Confidence (%)",
            "Overall Score",
            "Decision Explanation",
            "Processing Time (s)",
        ),
        *(
            (
                item["filename"],
                item["final_decision"],
                item["confidence"],
                item["overall_score"],
                item["decision_explanation"],
                item["processing_time"],
            )
            for item in result["results"]
        ),
    ]
    for number, item in enumerate(result["results"], 1):
        rows += _details(number, item)
    if result["errors"]:
        rows += [(), ("FAILED IMAGES",), ("Filename", "Reason", "Explanation")]
        rows += [(error["filename"], error["reason"], error["message"]) for error in result["errors"]]
    rows += [
        (),
        ("ABOUT THIS REPORT",),
        ("Batch", batch_id),
        ("Status", status),
        ("Written At (UTC)", result["timestamp"]),
        ("Note", "Nothing found is no proof of authenticity."),
        ("Formulas", "A cell that begins like a formula has an apostrophe in front."),
    ]
    return _written(rows)


_DECISIONS: Final = (
    "CONFIRMED_AI_GENERATED",
    "SUSPICIOUS_AI_LIKELY",
    "AUTHENTIC_BUT_REVIEW",
    "MOSTLY_AUTHENTIC",
)


def _details(number: int, item: dict[str, Any]) -> list[Row]:
    manipulation = item["manipulation"]
    rows: list[Row] = [
        (),
        (f"IMAGE {number} DETAILED ANALYSIS",),
        ("FINAL DECISION",),
        ("Decision", item["final_decision"]),
        ("Confidence", f"{item['confidence']}%"),
        ("Explanation", item["decision_explanation"]),
        (),
        ("EVIDENCE SUMMARY",),
        ("Source", "Direction", "Strength", "Confidence", "Finding"),
        *(
            (piece["source"], piece["direction"], piece["strength"], piece["confidence"], piece["finding"])
            for piece in item["evidence"]
        ),
        (),
        ("METRIC BREAKDOWN",),
        ("Metric", "Score", "Confidence", "Status", "Explanation"),
        *_metrics(item),
        (),
        ("FORENSIC DETAILS",),
        ("Detail", "Value"),
        ("Filename", item["filename"]),
        ("Image Size", " x ".join(str(side) for side in item["image_size"])),
        ("Analysis", item["analysis_id"]),
        ("Status of the Score", item["status"]),
        ("Edit Decision", manipulation["decision"]),
        ("Edit Probability", manipulation["probability"]),
        ("Edit Explanation", manipulation["explanation"]),
        ("Suspected Techniques", ", ".join(technique["name"] for technique in manipulation["techniques"])),
        ("Faces", item["faces"]),
        ("Policy Version", item["policy_version"]),
        ("Calibration Version", item["calibration_version"]),
        *(("Could Not Be Asked", f"{missing['part']}: {missing['message']}") for missing in item["missing"]),
    ]
    return rows


def _metrics(item: dict[str, Any]) -> Iterable[Row]:
    signals = {signal["metric_type"]: signal for signal in item["signals"]}
    for name, metric in item["metric_results"].items():
        signal = signals.get(name, {})
        yield (name, metric["score"], metric["confidence"], signal.get("status"), signal.get("explanation"))


def _written(rows: Iterable[Row]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    for row in rows:
        writer.writerow([_cell(value) for value in row])
    return text.getvalue().encode("utf-8", "replace")


def _cell(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(_FORMULA_STARTS):
        return f"'{value}"
    return value
