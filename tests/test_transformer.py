"The transformer backbone against an independent implementation, and its properties on random input."
import pytest
import torch
from hypothesis import given, settings, strategies as st
from sentnb.models.transformer import Transformer

torch.set_num_threads(1)

def gpt2_and_ours(n_layers=3, hidden_size=48, n_heads=4, vocab_size=101, max_positions=32):
    "GPT-2 of the transformers library with random weights, and our backbone with the same ones."
    reason = "development-only comparison: needs the transformers library"
    transformers = pytest.importorskip("transformers", reason=reason)
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(
        vocab_size=vocab_size, n_positions=max_positions, n_embd=hidden_size, n_layer=n_layers, n_head=n_heads,
        activation_function="relu", resid_pdrop=0., embd_pdrop=0., attn_pdrop=0., initializer_range=.3)).eval()
    ours = Transformer(hidden_size, n_layers, n_heads, ffn_size=4 * hidden_size, embedding_size=hidden_size,
                       context=max_positions, max_positions=max_positions, pre_norm=True).eval()
    copy_gpt2(theirs.transformer, ours)
    return theirs, ours

@torch.no_grad()
def copy_gpt2(theirs, ours):
    "GPT-2 stores its matrices the other way round (input rows, output columns)."
    def copy(target, source):
        target.weight.copy_(source.weight.T if source.weight.dim() == 2 else source.weight)
        target.bias.copy_(source.bias)
    ours.positions.weight.copy_(theirs.wpe.weight)
    for mine, block in zip(ours.blocks, theirs.h, strict=True):
        copy(mine.attention_norm, block.ln_1)
        copy(mine.attention.qkv, block.attn.c_attn)
        copy(mine.attention.out, block.attn.c_proj)
        copy(mine.ffn_norm, block.ln_2)
        copy(mine.ffn[0], block.mlp.c_fc)
        copy(mine.ffn[3], block.mlp.c_proj)
    copy(ours.norm, theirs.ln_f)

def test_equal_to_gpt2():
    torch.manual_seed(0)
    theirs, ours = gpt2_and_ours()
    tokens = torch.randint(101, (4, 32))
    with torch.no_grad():
        vectors, _ = ours(tokens, theirs.transformer.wte)
        logits = vectors @ theirs.transformer.wte.weight.T
        expected = theirs(tokens).logits
    assert expected.std() > .1                      # not a comparison of zeros
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)

def test_same_gradients_as_gpt2():
    torch.manual_seed(1)
    theirs, ours = gpt2_and_ours()
    tokens = torch.randint(101, (2, 16))
    weight = torch.randn(48)
    (ours(tokens, theirs.transformer.wte)[0] @ weight).sum().backward()
    theirs.transformer.wte.weight.grad = None
    (theirs.transformer(tokens).last_hidden_state @ weight).sum().backward()
    for mine, block in zip(ours.blocks, theirs.transformer.h, strict=True):
        expected = block.attn.c_attn.weight.grad.T
        torch.testing.assert_close(mine.attention.qkv.weight.grad, expected, rtol=1e-3, atol=1e-3)
    expected = theirs.transformer.wpe.weight.grad
    torch.testing.assert_close(ours.positions.weight.grad, expected, rtol=1e-3, atol=1e-3)

@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(2, 7), st.booleans(), st.integers(0, 2**20))
def test_any_cut_gives_the_same_vectors(sizes, context, pre_norm, seed):
    "Cached equals uncached, whatever the chunks, the context and the resets."
    torch.manual_seed(seed)
    backbone = Transformer(8, 2, 2, 16, 6, context=context, max_positions=7, pre_norm=pre_norm).eval()
    embedding = torch.nn.Embedding(20, 6)
    tokens = torch.randint(20, (2, sum(sizes)))
    reset = torch.rand(tokens.shape) < .15
    with torch.no_grad():
        whole, _ = backbone(tokens, embedding, reset=reset)
        state = None
        outputs = []
        for chunk, chunk_reset in zip(tokens.split(sizes, 1), reset.split(sizes, 1)):
            y, state = backbone(chunk, embedding, state, chunk_reset)
            outputs.append(y)
    assert whole.isfinite().all()
    torch.testing.assert_close(torch.cat(outputs, 1), whole, rtol=1e-4, atol=1e-5)

def test_long_training_text_has_gradients_through_every_window():
    "Beyond the context, in training mode, windows are read again without a cache, and learn."
    torch.manual_seed(0)
    backbone = Transformer(8, 2, 2, 16, 8, context=4, max_positions=4, dropout=0., relu_dropout=0.)
    embedding = torch.nn.Embedding(20, 8)
    tokens = torch.arange(11)[None]
    vectors, state = backbone.train()(tokens, embedding)
    assert state is None
    torch.testing.assert_close(vectors, backbone.eval()(tokens, embedding)[0], rtol=1e-4, atol=1e-5)
    vectors.square().sum().backward()
    assert (embedding.weight.grad[:11].abs().sum(1) > 0).all()

def test_half_precision_runs():
    "With bfloat16 parameters, as on a GPU, vectors are near those of float32."
    torch.manual_seed(0)
    backbone = Transformer(16, 2, 2, 32, 16, context=8, max_positions=8).eval()
    embedding = torch.nn.Embedding(20, 16)
    tokens = torch.randint(20, (2, 20))
    with torch.no_grad():
        exact = backbone(tokens, embedding)[0]
        near = backbone.bfloat16()(tokens, embedding.bfloat16())[0]
    assert near.dtype == torch.bfloat16
    assert (near.float() - exact).abs().max() < .2

@pytest.mark.slow
def test_compiled_blocks_train_alike():
    "torch.compile with its own code generator, which needs a C++ compiler on a CPU."
    def gradients(compiled):
        torch.manual_seed(0)
        backbone = Transformer(16, 2, 2, 32, 16, context=8, max_positions=8, dropout=0., relu_dropout=0.)
        embedding = torch.nn.Embedding(20, 16)
        if compiled: backbone.compile_blocks()
        backbone(torch.randint(20, (2, 8)), embedding)[0].square().sum().backward()
        return torch.cat([p.grad.flatten() for p in backbone.parameters()])
    torch.testing.assert_close(gradients(True), gradients(False), rtol=1e-4, atol=1e-5)


def tiny_corpus(folder):
    "A prepared corpus of phrases, over SentencePiece."
    import numpy as np
    from sentnb.data.token_files import TokenFile, write_manifest
    from sentnb.data.tokenizers import SentencePieceTokenizer
    rng = np.random.default_rng(0)
    words = ("good bad film very not the plot and dull bright wonderful acting terrible ending surprising music boring "
             "characters number").split()
    texts = ["\n " + " ".join(rng.choice(words, rng.integers(3, 12))) + " " for _ in range(300)]
    tokenizer = SentencePieceTokenizer.train(texts, vocab_size=290)
    for split, chosen in dict(train=texts[:-40], val=texts[-40:]).items():
        TokenFile.from_texts(chosen, tokenizer).save(folder, split)
    write_manifest(folder, ["train", "val"], tokenizer, cleaning="review")
    return str(folder)

@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_pretraining_resumes_to_the_same_weights(tmp_path, precision):
    "The common loop: dropout, recomputation, tied head with a projection; stopped at step 20, resumed from 12."
    from dataclasses import asdict
    from sentnb.models.lm import LanguageModel
    from sentnb.runs import Run
    from sentnb.training.distributed import World
    from sentnb.training.pretrain import pretrain
    from sentnb.training.trainer import PretrainConfig
    from sentnb.training.trainer import Trainer
    model = dict(backbone="transformer", embedding_size=8, hidden_size=16, n_layers=2, n_heads=2, ffn_size=32,
                 dropout=.1, tied=True, recompute=True, max_positions=16)
    config = PretrainConfig(data=tiny_corpus(tmp_path / "corpus"), **model, batch_size=8, seq_len=16, docs_per_shard=5,
                            steps=20, lr=1e-2, schedule_steps=0, precision=precision, log_every=5, eval_every=0,
                            save_every=12, device="cpu", nproc=1)
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
