"""A tokenizer as umT5's, trained on a few sentences, in both of its files."""

import functools
import io
import pathlib

PAD, END, BEGIN, UNKNOWN = '<pad>', '</s>', '<s>', '<unk>'
SENTENCES = (
    'a stone room with two doors',
    'a knight walks through a brick corridor, then turns left!',
    'lava and water flow over the stone floor',
    'the camera pans over a crowded market at night',
    'ein Ritter läuft durch den Flur',
    '一只猫在花园里玩',
)
NEEDED = ('tokenizers', 'sentencepiece', 'ftfy')


@functools.cache
def spiece_model() -> bytes:
  import sentencepiece

  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(SENTENCES * 5), model_writer=model, vocab_size=312,
      pad_id=0, eos_id=1, bos_id=2, unk_id=3, byte_fallback=True,
      character_coverage=1., normalization_rule_name='identity', minloglevel=2)
  return model.getvalue()


@functools.cache
def tokenizer_json() -> str:
  """The same pieces."""
  import sentencepiece
  import tokenizers

  model = sentencepiece.SentencePieceProcessor(model_proto=spiece_model())
  pieces = [(model.id_to_piece(i), model.get_score(i))
            for i in range(len(model))]
  made = tokenizers.Tokenizer(tokenizers.models.Unigram(
      pieces, unk_id=model.unk_id(), byte_fallback=True))
  made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
  made.post_processor = tokenizers.processors.TemplateProcessing(
      single=f'$A {END}', special_tokens=[(END, model.eos_id())])
  made.add_special_tokens([PAD, END, BEGIN, UNKNOWN])
  # As a published file may have been saved; neither is Wan's.
  made.enable_truncation(3)
  made.enable_padding(length=5)
  return made.to_str()


def write(folder, *names: str):
  """Both files, or those that are named."""
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  if not names or 'spiece.model' in names:
    (folder / 'spiece.model').write_bytes(spiece_model())
  if not names or 'tokenizer.json' in names:
    (folder / 'tokenizer.json').write_text(tokenizer_json())
  return folder
