import pytest

from mi_toolkit.app.settings import Settings
from mi_toolkit.core.errors import ModelLoadError, PromptError, UnknownNameError


def test_a_known_name_or_its_alias_is_one_model() -> None:
    settings = Settings()
    assert settings.model_named(" openai-community/gpt2 ") == "gpt2"
    assert settings.model_named("smollm2") == "smollm2-135m-instruct"


def test_any_hub_id_may_be_typed_in() -> None:
    assert Settings().model_named("bigscience/bloom-560m") == "bigscience/bloom-560m"


@pytest.mark.parametrize(
    "typed", ["/etc", "./model", "../other/model", "~/model", "a/b/c", "weights.gguf", "..\\x"]
)
def test_the_disk_of_the_server_is_closed_unless_it_was_opened(typed: str) -> None:
    with pytest.raises(ModelLoadError, match="--allow-local"):
        Settings().model_named(typed)
    assert Settings(allow_local=True).model_named(typed) == typed


def test_a_typo_names_its_neighbour() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'toy-gpt2'"):
        Settings().model_named("toy-gtp2")


def test_only_the_models_that_the_server_allows() -> None:
    settings = Settings(allow_models=("toy-gpt2", "EleutherAI/pythia-160m"), allow_local=True)
    assert settings.offered == ("toy-gpt2", "EleutherAI/pythia-160m")
    assert settings.model_named("pythia-160m") == "EleutherAI/pythia-160m"
    for other in ("gpt2", "/etc", "bigscience/bloom-560m"):
        with pytest.raises(UnknownNameError, match="loads only: toy-gpt2, EleutherAI/pythia-160m"):
            settings.model_named(other)


def test_a_prompt_beyond_the_bound_is_told_how_long_it_is() -> None:
    Settings().check_prompt(128)
    with pytest.raises(PromptError, match="has 129 tokens; this page takes 128"):
        Settings().check_prompt(129)


def test_a_prompt_is_measured_before_it_is_cut_into_tokens() -> None:
    Settings(most_prompt_tokens=2).check_text("x" * 40)
    with pytest.raises(PromptError, match="has 41 letters; this page takes 40 at most"):
        Settings(most_prompt_tokens=2).check_text("x" * 41)


@pytest.mark.parametrize("text", ["", "  \n"])
def test_an_empty_prompt_is_told_in_plain_words(text: str) -> None:
    with pytest.raises(PromptError, match="Your prompt is empty"):
        Settings().check_text(text)


def test_the_models_that_are_here_need_no_network() -> None:
    here = Settings().here()
    assert {"toy-gpt2", "toy-qwen2"} <= set(here)
    assert Settings(allow_models=("toy-opt", "gpt2-xl")).here() == ("toy-opt",)
