"""The documents that most tests of a locker speak of, and whose they are."""

ISSUER = "in.gov.meeseva.ap"
INCOME, CASTE = f"{ISSUER}-INCOM-1", f"{ISSUER}-CASTE-1"
MOBILE = ("mobile", "9876543210")
