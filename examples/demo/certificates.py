"""Real PDF certificates for the demo, of invented people, and the manifests that a department would hand over with them."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reportlab.lib.pagesizes import A5, landscape
from reportlab.pdfgen.canvas import Canvas


@dataclass(frozen=True)
class Certificate:
    """What one certificate says; ``holder`` is a mobile number, ``facts`` are its search parameters."""

    issuer: str
    doc_type: str
    doc_id: str
    title: str
    name: str
    holder: str
    issued_on: str
    facts: dict[str, str]

    @property
    def uri(self) -> str:
        return f"{self.issuer}-{self.doc_type}-{self.doc_id}"


def write_manifest(folder: Path, certificates: Sequence[Certificate]) -> Path:
    """Write a PDF for each certificate and the manifest that names them all; returns the manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = sorted({name for certificate in certificates for name in certificate.facts})
    manifest = folder / "manifest.csv"
    with manifest.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(
            ["file", "issuer", "doc_type", "doc_id", "holder_scheme", "holder_value", "issued_on", "title",
             *(f"param.{name}" for name in facts)]
        )  # fmt: skip
        for certificate in certificates:
            name = f"{certificate.doc_id}.pdf"
            draw(folder / name, certificate)
            rows.writerow(
                [name, certificate.issuer, certificate.doc_type, certificate.doc_id, "mobile", certificate.holder,
                 certificate.issued_on, certificate.title, *(certificate.facts.get(fact, "") for fact in facts)]
            )  # fmt: skip
    return manifest


def draw(path: Path, certificate: Certificate) -> None:
    """Draw one certificate."""
    page = Canvas(str(path), pagesize=landscape(A5))
    width, height = landscape(A5)
    page.setTitle(certificate.title)
    page.rect(20, 20, width - 40, height - 40)
    page.setFont("Helvetica-Bold", 20)
    page.drawCentredString(width / 2, height - 80, certificate.title)
    page.setFont("Helvetica", 13)
    page.drawCentredString(width / 2, height - 130, f"This is to certify that {certificate.name}")
    for number, (name, value) in enumerate(sorted(certificate.facts.items())):
        page.drawCentredString(width / 2, height - 160 - 20 * number, f"{name.replace('_', ' ')}: {value}")
    page.setFont("Courier", 9)
    page.drawCentredString(width / 2, 40, f"{certificate.uri}   issued on {certificate.issued_on}")
    page.save()


RESIDENT_NAME = "Anita Rao"
RESIDENT_MOBILE = "+919876543210"

INCOME = [
    Certificate(
        "in.gov.meeseva.ap", "INCOM", doc_id, "Income certificate", name, mobile, "2026-04-01",
        {"application_no": doc_id, "full_name": name, "annual_income": income},
    )
    for doc_id, name, mobile, income in [
        ("9606884969", RESIDENT_NAME, RESIDENT_MOBILE, "Rs 1,20,000"),
        ("9606884970", "Ravi Kumar", "+919812345678", "Rs 2,40,000"),
        ("9606884971", "Meena Das", "+919898989898", "Rs 96,000"),
    ]
]  # fmt: skip
DEGREES = [
    Certificate(
        "in.ac.example", "DEGRE", doc_id, "Bachelor of Science", name, mobile, "2023-07-15",
        {"roll_no": roll, "full_name": name, "class": result},
    )
    for doc_id, name, mobile, roll, result in [
        ("2023-042", RESIDENT_NAME, RESIDENT_MOBILE, "BSC-042", "First with distinction"),
        ("2023-043", "Sunil Patel", "+919777777777", "BSC-043", "Second"),
    ]
]  # fmt: skip
