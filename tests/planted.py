"""Secrets of every kind that is recognised, put together at run time so that no scanner takes this file for a leak."""

from __future__ import annotations

import base64

_ALNUM = "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8s9T0u1V2w3X4y5Z6"
_HEX = "0123456789abcdef" * 4
_JWT = ".".join(
    base64.urlsafe_b64encode(part).decode().rstrip("=")
    for part in (b'{"alg":"HS256","typ":"JWT"}', b'{"sub":"1234567890","name":"Jane"}', b"signature-of-32-bytes-or-so")
)
_PEM_BODY = "MIIEowIBAAKCAQEA7bq0\nVm9yd2FyZCBhbGwgdGhl\nc2VjcmV0cyBvdXQgb2Yg"

#: Tokens that are known by their own form, anywhere in a text.
TOKENS: dict[str, str] = {
    "openai": "sk-" + _ALNUM[:48],
    "openai project": "sk-proj-" + _ALNUM + "-" + _ALNUM[:20],
    "anthropic": "sk-ant-api03-" + _ALNUM + "-AA",
    "openrouter": "sk-or-v1-" + _HEX,
    "github personal": "ghp_" + _ALNUM[:36],
    "github server": "ghs_" + _ALNUM[:36],
    "github fine-grained": "github_pat_" + _ALNUM[:22] + "_" + _ALNUM,
    "gitlab": "glpat-" + _ALNUM[:20],
    "slack bot": "xoxb-" + "123456789012-1234567890123-" + _ALNUM[:24],
    "slack app": "xapp-1-A01BCDEF-" + _HEX,
    "slack webhook": "https://hooks.slack.com/services/" + "T00000000/B00000000/" + _ALNUM[:24],
    "aws key id": "AKIA" + "IOSFODNN7EXAMPLE",
    "aws session key id": "ASIA" + "IOSFODNN7EXAMPLE",
    "google": "AIza" + "Sy" + _ALNUM[:33],
    "google oauth": "ya29." + _ALNUM,
    "stripe": "sk_live_" + _ALNUM[:24],
    "stripe restricted": "rk_live_" + _ALNUM[:24],
    "jwt": _JWT,
    "npm": "npm_" + _ALNUM[:36],
    "pypi": "pypi-" + "AgEIcHlwaS5vcmcCJ" + _ALNUM,
    "sendgrid": "SG." + _ALNUM[:22] + "." + _ALNUM[:43],
    "twilio": "SK" + _HEX[:32],
    "hugging face": "hf_" + _ALNUM[:34],
    "digitalocean": "dop_v1_" + _HEX,
    "shopify": "shpat_" + _HEX[:32],
    "databricks": "dapi" + _HEX[:32],
    "vault": "hvs." + _ALNUM,
    "groq": "gsk_" + _ALNUM,
    "telegram": "1234567890:AA" + _ALNUM[:33],
    "azure storage": base64.b64encode(bytes(range(64))).decode(),
    "azure client": "abc8Q~" + _ALNUM[:34],
    "card": "4111 1111 1111 1111",
    "card without spaces": "5555555555554444",
    "american express": "378282246310005",
    "private key": f"-----BEGIN RSA PRIVATE KEY-----\n{_PEM_BODY}\n-----END RSA PRIVATE KEY-----",
    "age": "AGE-SECRET-KEY-1" + "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L",
}

#: Secrets that only what stands around them gives away: the text, and the secret in it.
ASSIGNED: dict[str, tuple[str, str]] = {
    "password": ("password=hunter2hunter", "hunter2hunter"),
    "password in prose": ("the password: Tr0ub4dor&3", "Tr0ub4dor&3"),
    "aws secret": ("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "wJalrXUtnFEMI"),
    "environment": ("export OPENAI_API_KEY='not-a-known-form-9'", "not-a-known-form-9"),
    "bearer": ("Authorization: Bearer opaque-token-value-1", "opaque-token-value-1"),
    "basic": ("authorization: Basic dXNlcjpwYXNzd29yZA==", "dXNlcjpwYXNzd29yZA"),
    "api key header": ("X-Api-Key: 9f8e7d6c5b4a", "9f8e7d6c5b4a"),
    "cookie": ("Cookie: sid=s3ss10n; theme=dark", "s3ss10n"),
    "postgres": ("postgresql://app:pg-pa/ss@db.internal:5432/app", "pg-pa/ss"),
    "redis": ("redis://:r3d1spw@cache:6379/0", "r3d1spw"),
    "basic-auth url": ("https://bob:h0rse@example.com/x", "h0rse"),
    "odbc": ("Server=db;User Id=sa;Password=Sup3rS3cret;Encrypt=yes", "Sup3rS3cret"),
    "azure connection": ("AccountName=x;AccountKey=c2hvcnQ=;EndpointSuffix=core", "c2hvcnQ="),
    "query parameter": ("GET /v1?api_key=qp-12345&limit=5", "qp-12345"),
    "signed url": ("https://x.blob.example/c?sv=2024&sig=abcDEF%2B123%3D&se=1", "abcDEF%2B123%3D"),
    "flag": ("deploy --token fl4gt0ken --verbose", "fl4gt0ken"),
    "json": ('{"user": "bob", "client_secret": "js0nsecret"}', "js0nsecret"),
    "json in json": (r'{"body": "{\"refresh_token\": \"n3sted\"}"}', "n3sted"),
    "python": ("{'user': 'bob', 'passwd': 'r3pr'}", "r3pr"),
    "behind an escape": (r"first line\npassword=esc4ped", "esc4ped"),
    "xml": ("<user>bob</user><password>xm1pw</password>", "xm1pw"),
    "yaml": ("db:\n  password: y4mlpw\n  port: 5432", "y4mlpw"),
}
