import pytest

from csr_hf.plumbing.redaction import without_secrets

SECRET = "s3cr3t.Word-9"


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://me:{}@host/db",
        "postgresql://host/db?user=me&password={}&sslmode=require",
        "postgresql://host/db?sslpassword={}",
        "host=db user=me password={} dbname=x",
        "host=db password='{} and more' dbname=x",
        "https://host:9200/?api_key={}&x=1",
        "https://me:{}@host:9200",
        "http://host:19530?token={}",
        "Authorization: Bearer {}",
        "authorization: Basic {}",
        "{{'Authorization': 'ApiKey {}', 'Accept': '*/*'}}",
        '{{"api_key": "{}", "x": 1}}',
        "headers={{'api-key': '{}'}}",
        "csr-hf index --api-key {} --backend x",
        "csr-hf index --api-key={}",
        "csr-hf push --hub.token {}",
        "QDRANT_API_KEY={}",
        "aws_secret_access_key = {}",
    ],
)
def test_secrets_in_any_form_are_masked(text):
    shown = without_secrets(text.format(SECRET))
    assert SECRET not in shown and "***" in shown
    assert without_secrets(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "special tokens: 12, max_tokens=3",
        "the token may not write there: log in with `hf auth login`, or set HF_TOKEN, with a token that may.",
        "tokenizer: bert; training.max_steps: 3",
        "https://host:9200/index?refresh=true",
        "csr-hf run a.yaml --output-dir runs/a",
    ],
)
def test_what_is_no_secret_stays(text):
    assert without_secrets(text) == text


def test_tokens_of_the_hub_say_that_they_are():
    assert without_secrets("--token hf_abcdefghijklmn") == "--token hf_***"
