import numpy as np
import pytest
import tokenizers as hf
from tokenizers import decoders, models, pre_tokenizers

from crate_jax.data import sources
from crate_jax.data import tokenizer as tokenizers
from crate_jax.errors import UserError

TEXT = [
  "def f(x):\n  return 'h\u00e9llo \u4e16\u754c' + x\n\n\n",
  "\ttabs\r\n<|endoftext|> and  spaces ",
]


def make(kind, cache, documents=TEXT, vocab_size=300):
  return tokenizers.make_tokenizer(kind, documents, [], vocab_size, cache)


@pytest.mark.parametrize("kind", tokenizers.KINDS)
def test_text_comes_back(kind, tmp_path):
  tokenizer = make(kind, tmp_path)
  for text in TEXT:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.end_of_text not in ids  # even though the text spells it out
    assert ids.min() >= 0 and ids.max() < tokenizer.vocab_size
    assert tokenizer.byte_lengths()[ids].sum() == len(text.encode())


@pytest.mark.parametrize("kind", tokenizers.KINDS)
def test_documents_end_with_end_of_text(kind, tmp_path):
  tokenizer = make(kind, tmp_path)
  first, second = map(tokenizer.encode, TEXT)
  end = [tokenizer.end_of_text]
  ids = tokenizer.encode_documents(TEXT)
  np.testing.assert_array_equal(ids, np.concatenate([first, end, second, end]))
  assert tokenizer.byte_lengths()[tokenizer.end_of_text] == 0
  np.testing.assert_array_equal(tokenizer.encode_documents(TEXT[:1], end=False), first)


@pytest.mark.parametrize("kind", tokenizers.KINDS)
def test_a_saved_tokenizer_is_the_same(kind, tmp_path):
  tokenizer = make(kind, tmp_path)
  tokenizer.save(tmp_path / "run" / "tokenizer.json")
  loaded = tokenizers.Tokenizer.load(tmp_path / "run" / "tokenizer.json")
  assert loaded.digest() == tokenizer.digest()
  np.testing.assert_array_equal(loaded.encode_documents(TEXT), tokenizer.encode_documents(TEXT))


def test_bytes_are_256_and_end_of_text(tmp_path):
  tokenizer = make("bytes", tmp_path)
  assert tokenizer.vocab_size == 257
  assert len(tokenizer.encode("h\u00e9")) == 3


def test_characters_are_those_of_both_splits(tmp_path):
  tokenizer = tokenizers.make_tokenizer("characters", ["abc"], ["cd"], 0, tmp_path)
  assert tokenizer.vocab_size == 5
  assert tokenizer.encode("dcba").tolist() == [3, 2, 1, 0]


@pytest.mark.parametrize("encode", ["encode", "encode_documents"])
def test_a_character_without_a_token_is_named(encode, tmp_path):
  tokenizer = make("characters", tmp_path, ["abc"])
  with pytest.raises(UserError, match="no token for the character 'z'"):
    getattr(tokenizer, encode)("abz" if encode == "encode" else ["a", "abz"])


def test_bpe_is_trained_once(tmp_path, monkeypatch):
  first = make("bpe", tmp_path)
  assert 257 < first.vocab_size <= 300
  monkeypatch.setattr(tokenizers, "_train_bpe", None)  # would fail if it were called
  assert make("bpe", tmp_path).digest() == first.digest()
  with pytest.raises(TypeError):
    make("bpe", tmp_path, ["another text"])
  with pytest.raises(TypeError):
    make("bpe", tmp_path, vocab_size=290)


def test_bpe_training_is_reproducible(tmp_path):
  documents = [" ".join(f"{i * i % 9973} {i * 7919 % 1009}" for i in range(4000))]
  one, two = (make("bpe", tmp_path / name, documents, 400) for name in "ab")
  assert one.digest() == two.digest() and one.vocab_size == 400


@pytest.mark.parametrize(
  ("kind", "size", "sentence"),
  [("bpe", 256, "data.bpe_vocab_size=256"), ("words", 300, "data.tokenizer='words'")],
)
def test_a_wrong_kind_or_size_is_refused(kind, size, sentence, tmp_path):
  with pytest.raises(UserError, match=sentence):
    make(kind, tmp_path, vocab_size=size)


def test_a_file_that_is_no_tokenizer_is_named(tmp_path):
  (tmp_path / "tokenizer.json").write_text("{}")
  with pytest.raises(UserError, match=r"tokenizer\.json is not a tokenizer"):
    tokenizers.Tokenizer.load(tmp_path / "tokenizer.json")
  with pytest.raises(UserError, match=r"absent\.json is missing"):
    tokenizers.Tokenizer.load(tmp_path / "absent.json")


def words(folder):
  """A tokenizer.json of another kind: SentencePiece's spaces and bytes, </s>, a gap in its ids."""
  tokens = ("<unk>", "</s>", "\u2581the", "\u2581cat", "<0xC3>", "<0xBC>")
  vocabulary = {token: i for i, token in enumerate(tokens)} | {"\u2581": 9}
  tokenizer = hf.Tokenizer(
    models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True, ignore_merges=True)
  )
  tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
  tokenizer.decoder = decoders.Sequence(
    [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
  )
  tokenizer.save(str(folder / "tokenizer.json"))


def test_any_tokenizer_file_is_one(tmp_path):
  words(tmp_path)
  for name in (tmp_path, tmp_path / "tokenizer.json"):
    tokenizer = make(str(name), tmp_path)
    assert (tokenizer.end_of_text, tokenizer.vocab_size) == (1, 10)
    ids = tokenizer.encode("the cat the \u00fc")
    np.testing.assert_array_equal(ids, [2, 3, 2, 9, 4, 5])
    assert tokenizer.byte_lengths()[ids].sum() == len(" the cat the \u00fc".encode())
    assert tokenizer.decode(ids) == " the cat the \u00fc"


def test_a_vocabulary_without_an_end_is_refused(tmp_path):
  hf.Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).save(str(tmp_path / "tokenizer.json"))
  with pytest.raises(UserError, match=r"tokenizer\.json: The tokenizer has no token that ends a"):
    make(str(tmp_path), tmp_path)


def test_the_released_files_of_gpt2_give_the_ids_of_tiktoken(shared_data, tmp_path):
  tiktoken = pytest.importorskip("tiktoken")
  load = pytest.importorskip("tiktoken.load")
  folder = shared_data / "gpt2-bpe"
  ranks = load.data_gym_to_mergeable_bpe_ranks(
    vocab_bpe_file=str(folder / "vocab.bpe"), encoder_json_file=str(folder / "encoder.json")
  )
  pattern = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
  other = tiktoken.Encoding(
    "gpt2", pat_str=pattern, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 50256}
  )
  ours = make(str(folder), tmp_path)
  assert (ours.vocab_size, ours.end_of_text) == (50257, 50256)
  read = 0
  for text in sources.iterate(str(shared_data / "bookmix" / "train.txt.xz")):
    text = text[: 10_000_000 - read]
    np.testing.assert_array_equal(ours.encode(text), other.encode_ordinary(text))
    read += len(text)
    if read >= 10_000_000:
      break
  assert read == 10_000_000
