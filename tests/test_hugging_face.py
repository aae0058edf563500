"""Hugging Face's models with random weights: batches as dicts, labels inside, outputs as objects."""

import pytest
import torch
from torch.nn import functional as F

from harness.problems import attention, check, from_network, subset
from methods import create_graph_rows, vmap_hvp
from tests.oracles import central_differences, distance

transformers = pytest.importorskip("transformers", reason="pip install '.[hf]'")

TOKENS = torch.tensor([[1, 4, 2, 6], [3, 3, 5, 0]])
PADDED = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])


def gpt2(kind):
    config = transformers.GPT2Config(
        vocab_size=7,
        n_positions=4,
        n_embd=4,
        n_layer=1,
        n_head=2,
        attn_implementation=kind,
        bos_token_id=0,
        eos_token_id=0,
    )
    return transformers.GPT2LMHeadModel(config)


def bert(kind):
    config = transformers.BertConfig(
        vocab_size=7,
        hidden_size=4,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=5,
        num_labels=3,
        max_position_embeddings=4,
        attn_implementation=kind,
    )
    return transformers.BertForSequenceClassification(config)


def made(build, kind, batch, criterion=None, targets=None):
    """The problem in float64."""
    torch.manual_seed(0)
    return from_network(build(kind).eval(), criterion, batch, targets).to("cpu", torch.float64)


def labelled(name):
    labels = TOKENS if name == "gpt2" else torch.tensor([0, 2])
    return {"input_ids": TOKENS, "attention_mask": PADDED, "labels": labels}


BUILDERS = {"gpt2": gpt2, "bert": bert}


@pytest.mark.usefixtures("by_products")
@pytest.mark.parametrize("kind", ["sdpa", "eager"])
@pytest.mark.parametrize("name", BUILDERS)
def test_labels_inside(name: str, kind: str) -> None:
    """GPT-2's own loss is computed in float32, whatever the model's dtype, BERT's is not."""
    problem = made(BUILDERS[name], kind, labelled(name))
    check(problem)
    assert attention.backend_of(problem.loss, problem.theta) == ("math" if kind == "sdpa" else None)
    part = subset(problem, 24, seed=0)
    single = name == "gpt2"
    true = central_differences(part, step=1e-2 if single else 3e-4)
    for method in (create_graph_rows, vmap_hvp):
        assert distance(method.hessian(part.loss, part.theta), true) < (1e-2 if single else 1e-7)


@pytest.mark.usefixtures("by_products")
@pytest.mark.parametrize("kind", ["sdpa", "eager"])
@pytest.mark.parametrize("name", BUILDERS)
def test_a_criterion_of_the_outputs(name: str, kind: str) -> None:
    batch = transformers.BatchEncoding({"input_ids": TOKENS, "attention_mask": PADDED})
    problem = made(
        BUILDERS[name],
        kind,
        batch,
        lambda outputs, y: F.cross_entropy(outputs.logits.movedim(-1, 1), y),
        labelled(name)["labels"],
    )
    check(problem)
    assert type(problem.inputs) is transformers.BatchEncoding
    part = subset(problem, 24, seed=0)
    true = central_differences(part)
    for method in (create_graph_rows, vmap_hvp):
        assert distance(method.hessian(part.loss, part.theta), true) < 1e-7


def test_the_model_itself_is_left_as_it_was() -> None:
    model = bert("eager").eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    check(from_network(model, None, labelled("bert")).to("cpu", torch.float64))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.dtype == torch.float32
