"""Certificates made by hand, for what is only shown."""

from flava_port.proof.certificate import Certificate, Claim, Finding, Measured, Verdict

QUERY = "flava.text_model.encoder.layer.1.attention.attention.query.weight"
FROM = "text_encoder.module.encoder.layer.1.attention.attention.query.weight"
HOSTILE = "flava.</script><script>alert(1)</script>|`*[x](y)*`\n\x1b[2Jproven"


def a_certificate(*claims: Claim, asked: str = "everything", not_looked_at: str = "") -> Certificate:
    """These claims, as some software checked them."""
    return Certificate(list(claims), {"flava-port": "0", "transformers": "5.24.0"}, {"flava.pt": "ab" * 32}, asked, not_looked_at)


def proven(name: str, measured: list[Measured] | None = None) -> Claim:
    """A claim that holds."""
    return Claim(name, Verdict.PROVEN, "all equal", measured=measured or [])


def differing(name: str, count: int, key: str = QUERY) -> Claim:
    """A claim that differs by so many findings."""
    findings = [Finding(key if n == 0 else f"{key}.{n}", FROM, "values differ", "another's" if n == 0 else "") for n in range(count)]
    return Claim(name, Verdict.DIFFERS, f"{count} found", findings)


def left_open(name: str) -> Claim:
    """A claim that there is nothing to judge by."""
    return Claim(name, summary="there is no tokenizer in the folder", left_open=True)
