"The transformer backbone against an independent implementation, and its properties on random input."
import pytest, torch
from hypothesis import given, settings, strategies as st
from sentnb.models.transformer import Transformer

torch.set_num_threads(1)

def gpt2_and_ours(n_layers=3, hidden_size=48, n_heads=4, vocab_size=101, max_positions=32):
    "GPT-2 of the transformers library with random weights, and our backbone with the same ones"
    transformers = pytest.importorskip("transformers", reason="development-only comparison: needs the transformers library")
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(
        vocab_size=vocab_size, n_positions=max_positions, n_embd=hidden_size, n_layer=n_layers, n_head=n_heads,
        activation_function="relu", resid_pdrop=0., embd_pdrop=0., attn_pdrop=0., initializer_range=.3)).eval()
    ours = Transformer(hidden_size, n_layers, n_heads, 4 * hidden_size, hidden_size, context=max_positions, max_positions=max_positions, pre_norm=True).eval()
    copy_gpt2(theirs.transformer, ours)
    return theirs, ours

@torch.no_grad()
def copy_gpt2(theirs, ours):
    "GPT-2 stores its matrices the other way round (input rows, output columns)"
    def copy(target, source): target.weight.copy_(source.weight.T if source.weight.dim() == 2 else source.weight); target.bias.copy_(source.bias)
    ours.positions.weight.copy_(theirs.wpe.weight)
    for mine, block in zip(ours.blocks, theirs.h, strict=True):
        for target, source in ((mine.attention_norm, block.ln_1), (mine.attention.qkv, block.attn.c_attn), (mine.attention.out, block.attn.c_proj),
                               (mine.ffn_norm, block.ln_2), (mine.ffn[0], block.mlp.c_fc), (mine.ffn[3], block.mlp.c_proj)): copy(target, source)
    copy(ours.norm, theirs.ln_f)

def test_equal_to_gpt2():
    torch.manual_seed(0)
    theirs, ours = gpt2_and_ours()
    tokens = torch.randint(101, (4, 32))
    with torch.no_grad():
        vectors, _ = ours(tokens, theirs.transformer.wte)
        logits, expected = vectors @ theirs.transformer.wte.weight.T, theirs(tokens).logits
    assert expected.std() > .1                      # not a comparison of zeros
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)

def test_same_gradients_as_gpt2():
    torch.manual_seed(1)
    theirs, ours = gpt2_and_ours()
    tokens, weight = torch.randint(101, (2, 16)), torch.randn(48)
    (ours(tokens, theirs.transformer.wte)[0] @ weight).sum().backward()
    theirs.transformer.wte.weight.grad = None
    (theirs.transformer(tokens).last_hidden_state @ weight).sum().backward()
    for mine, block in zip(ours.blocks, theirs.transformer.h, strict=True):
        torch.testing.assert_close(mine.attention.qkv.weight.grad, block.attn.c_attn.weight.grad.T, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(ours.positions.weight.grad, theirs.transformer.wpe.weight.grad, rtol=1e-3, atol=1e-3)

@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(2, 7), st.booleans(), st.integers(0, 2**20))
def test_any_cut_gives_the_same_vectors(sizes, context, pre_norm, seed):
    "cached == uncached, whatever the pieces, the context and the resets"
    torch.manual_seed(seed)
    backbone = Transformer(8, 2, 2, 16, 6, context=context, max_positions=7, pre_norm=pre_norm).eval()
    embedding, tokens = torch.nn.Embedding(20, 6), torch.randint(20, (2, sum(sizes)))
    reset = torch.rand(tokens.shape) < .15
    with torch.no_grad():
        whole, state, pieces = backbone(tokens, embedding, reset=reset)[0], None, []
        for part, part_reset in zip(tokens.split(sizes, 1), reset.split(sizes, 1)):
            y, state = backbone(part, embedding, state, part_reset)
            pieces.append(y)
    assert whole.isfinite().all()
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=1e-4, atol=1e-5)

def test_long_training_text_has_gradients_through_every_window():
    "a text beyond the context, in training mode: windows are read again without a cache, and learn"
    torch.manual_seed(0)
    backbone, embedding = Transformer(8, 2, 2, 16, 8, context=4, max_positions=4, dropout=0., relu_dropout=0.), torch.nn.Embedding(20, 8)
    tokens = torch.arange(11)[None]
    vectors, state = backbone.train()(tokens, embedding)
    assert state is None
    torch.testing.assert_close(vectors, backbone.eval()(tokens, embedding)[0], rtol=1e-4, atol=1e-5)
    vectors.square().sum().backward()
    assert (embedding.weight.grad[:11].abs().sum(1) > 0).all()

def test_half_precision_runs():
    "bfloat16 parameters, as on a GPU: vectors near those of float32"
    torch.manual_seed(0)
    backbone, embedding = Transformer(16, 2, 2, 32, 16, context=8, max_positions=8).eval(), torch.nn.Embedding(20, 16)
    tokens = torch.randint(20, (2, 20))
    with torch.no_grad():
        exact = backbone(tokens, embedding)[0]
        near = backbone.bfloat16()(tokens, embedding.bfloat16())[0]
    assert near.dtype == torch.bfloat16
    assert (near.float() - exact).abs().max() < .2

@pytest.mark.slow
def test_compiled_blocks_train_alike():
    "torch.compile with its own code generator; needs a C++ compiler on a CPU"
    def gradients(compiled):
        torch.manual_seed(0)
        backbone, embedding = Transformer(16, 2, 2, 32, 16, context=8, max_positions=8, dropout=0., relu_dropout=0.), torch.nn.Embedding(20, 16)
        if compiled: backbone.compile_blocks()
        backbone(torch.randint(20, (2, 8)), embedding)[0].square().sum().backward()
        return torch.cat([p.grad.flatten() for p in backbone.parameters()])
    torch.testing.assert_close(gradients(True), gradients(False), rtol=1e-4, atol=1e-5)


def tiny_corpus(folder):
    "a prepared corpus of phrases, in pieces"
    import numpy as np
    from sentnb.data.token_files import TokenFile, write_manifest
    from sentnb.data.tokenizers import SentencePieceTokenizer
    rng, words = np.random.default_rng(0), "good bad film very not the plot and dull bright wonderful acting terrible ending surprising music boring characters number".split()
    texts = ["\n " + " ".join(rng.choice(words, rng.integers(3, 12))) + " " for _ in range(300)]
    tokenizer = SentencePieceTokenizer.train(texts, vocab_size=290)
    for split, part in dict(train=texts[:-40], val=texts[-40:]).items(): TokenFile.from_texts(part, tokenizer).save(folder, split)
    write_manifest(folder, ["train", "val"], tokenizer, cleaning="review")
    return str(folder)

@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_pretraining_resumes_to_the_same_weights(tmp_path, precision):
    "the common loop: dropout, recomputation, tied head with a projection; interrupted at step 20, resumed from step 12"
    from dataclasses import asdict
    from sentnb.models.lm import LanguageModel
    from sentnb.runs import Run
    from sentnb.training.distributed import World
    from sentnb.training.pretrain import PretrainConfig, Trainer, pretrain
    config = PretrainConfig(data=tiny_corpus(tmp_path / "corpus"), backbone="transformer", embedding_size=8, hidden_size=16, n_layers=2, n_heads=2, ffn_size=32,
                            dropout=.1, tied=True, recompute=True, max_positions=16, batch_size=8, seq_len=16, docs_per_shard=5, steps=20, lr=1e-2,
                            schedule_steps=0, precision=precision, log_every=5, eval_every=0, save_every=12, device="cpu", nproc=1)
    straight, broken = (Run.create("pretrain", asdict(config), name, tmp_path) for name in ("straight", "broken"))
    result = pretrain(config, straight)
    trainer = Trainer(config, broken, World())
    trainer.validate = lambda: 1 / 0                      # the end validates
    with pytest.raises(ZeroDivisionError): trainer.fit()
    trainer.store.wait()
    assert trainer.store.steps() == [12]
    assert pretrain(config, broken).loss == result.loss < 5
    a, b = (LanguageModel.load(run.checkpoint_folder, "cpu", "stored") for run in (straight, broken))
    assert a.fingerprint == b.fingerprint and a.config.context == 16
    assert a.featurize(["a bright and good film " * 20]).shape == (1, 16)
