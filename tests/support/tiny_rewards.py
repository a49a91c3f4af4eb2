"""Tiny reward models with random weights, saved as their publishers save them: config, tokenizer, safetensors."""

import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<pad>", "<|im_start|>", "<|im_end|>", "<extra_0>"]


def tokenizer(*, chat=True, special=SPECIAL, words=()):
    """Bytes as tokens, and some whole words; nothing is unknown to it."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*alphabet, *words])}
    bare = Tokenizer(models.BPE(vocabulary, []))
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=bare, pad_token="<pad>")
    made.add_special_tokens({"additional_special_tokens": [s for s in special if s != "<pad>"]})
    if chat:
        made.chat_template = CHAT
    return made


def config(kind, words, **changes):
    settings = dict(
        vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, pad_token_id=words.pad_token_id, **changes,
    )  # fmt: skip
    return kind(**settings)


def saved(folder, model, words, *, architecture=None, extra=None):
    """Save, then add tensors and rename the architecture as a checkpoint of another class would have them."""
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    if architecture:
        made = transformers.AutoConfig.from_pretrained(folder)
        made.architectures = [architecture]
        made.save_pretrained(folder)
    if extra:
        path = folder / "model.safetensors"
        save_file({**load_file(path), **extra}, path, metadata={"format": "pt"})
    return folder


def qwen(folder):
    """Like Qwen2.5-Math-PRM: a decoder and a head of two layers."""
    torch.manual_seed(1)
    words = tokenizer()
    model = transformers.Qwen2ForCausalLM(config(transformers.Qwen2Config, words)).eval()
    head = {
        "score.0.weight": torch.randn(16, 16), "score.0.bias": torch.randn(16),
        "score.2.weight": torch.randn(2, 16), "score.2.bias": torch.randn(2),
    }  # fmt: skip
    saved(folder, model, words, architecture="Qwen2ForProcessRewardModel", extra=head)
    return model, words, head


def skywork(folder):
    """Like Skywork-o1 Open PRM: a causal language model with a value head beside it."""
    torch.manual_seed(2)
    words = tokenizer(chat=False)
    model = transformers.Qwen2ForCausalLM(config(transformers.Qwen2Config, words)).eval()
    head = {"v_head.summary.weight": torch.randn(1, 16), "v_head.summary.bias": torch.randn(1)}
    saved(folder, model, words, extra=head)
    return model, words, head


def causal(folder, *, chat):
    """Like RLHFlow's models (chat) or Math-Shepherd (no chat): a plain causal language model."""
    torch.manual_seed(3)
    words = tokenizer(chat=chat, special=[*SPECIAL[:3], *([] if chat else ["ки"])])
    kind = transformers.LlamaConfig
    model = transformers.LlamaForCausalLM(config(kind, words)).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(20)  # scores that differ
    saved(folder, model, words)
    return model, words


def classifier(folder, *, labels=1, chat=True):
    """A sequence classifier on a decoder, or on an encoder where there is no chat."""
    torch.manual_seed(4)
    words = tokenizer(chat=chat)
    if chat:
        model = transformers.LlamaForSequenceClassification(config(transformers.LlamaConfig, words, num_labels=labels))
    else:
        made = transformers.BertConfig(
            vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=512, num_labels=labels, pad_token_id=words.pad_token_id,
        )  # fmt: skip
        model = transformers.BertForSequenceClassification(made)
    with torch.no_grad():
        (model.score if chat else model.classifier).weight.mul_(20)
    saved(folder, model.eval(), words)
    return model, words
