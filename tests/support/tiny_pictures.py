"""Tiny models of pictures with random weights, from configurations alone, saved as their publishers save them."""

import json

import torch
import transformers

WORDS = ["<|startoftext|>", "<|endoftext|>"]


def clip_words(folder):
    """A CLIP tokenizer of single letters."""
    from transformers.models.clip.tokenization_clip import CLIPTokenizer

    letters = [c for c in "abcdefghijklmnopqrstuvwxyz0123456789"]
    tokens = [*letters, *(c + "</w>" for c in letters), *WORDS]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16)


def text_settings(words):
    return dict(
        vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=16, bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id,
        pad_token_id=words.eos_token_id,
    )  # fmt: skip


def clip(folder, seed=0):
    """A CLIP model of 16 x 16 pictures with its tokenizer and preprocessing."""
    words = clip_words(folder)
    seen = dict(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8
    )
    torch.manual_seed(seed)
    config = transformers.CLIPConfig(text_config=text_settings(words), vision_config=seen, projection_dim=8)
    transformers.CLIPModel(config).save_pretrained(folder)
    words.save_pretrained(folder)
    size = {"height": 16, "width": 16}
    transformers.CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=size).save_pretrained(folder)
    return folder


def stable_diffusion(folder, seed=0):
    """A pipeline as Stable Diffusion 1 is one: 4 x 8 x 8 latents, pictures of 16 x 16, conditioned on text."""
    import diffusers

    words = clip_words(folder / "made")
    torch.manual_seed(seed)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 16), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16, attention_head_dim=4, norm_num_groups=4,
    )  # fmt: skip
    vae = diffusers.AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(8, 16), norm_num_groups=4, sample_size=16,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, layers_per_block=1,
    )  # fmt: skip
    scheduler = diffusers.PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    )  # as published with the weights
    encoder = transformers.CLIPTextModel(transformers.CLIPTextConfig(**text_settings(words)))
    pipeline = diffusers.StableDiffusionPipeline(
        vae=vae, text_encoder=encoder, tokenizer=words, unet=unet, scheduler=scheduler, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(folder)
    return folder


def bert_words(folder):
    """A BERT tokenizer of words and single letters."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "blue", "fox", "ball", "a", "the"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


def random_tensors(shapes, seed):
    """Numbers of the size that keeps a layer's output of order one; norms near 1."""
    numbers = torch.Generator().manual_seed(seed)
    found = {}
    for name, shape in shapes.items():
        drawn = torch.randn(shape, generator=numbers)
        scale = shape[1] ** -0.5 if len(shape) == 2 else 0.3
        near_one = name.endswith(".weight") and len(shape) == 1
        found[name] = 1 + 0.1 * drawn if near_one else scale * drawn
    return found


def _linear(name, out, into):
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def _norm(name, width):
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def head(width, seed=0, hidden=(24, 12, 8, 4)):
    """The linear layers of ImageReward and of LAION's predictor, under their published names (smaller)."""
    widths = [width, *hidden, 1]
    shapes = {}
    for place, into, out in zip((0, 2, 4, 6, 7), widths[:-1], widths[1:], strict=True):
        shapes |= _linear(f"layers.{place}", out, into)
    return random_tensors(shapes, seed)


def image_reward(seed=0, words=11, eyes=128, text=64, depth=2, patch=4, side=16):
    """The tensors of an ImageReward checkpoint: published names, smaller sizes."""
    see, read = "blip.visual_encoder", "blip.text_encoder"
    places = (side // patch) ** 2 + 1
    shapes = {f"{see}.cls_token": (1, 1, eyes), f"{see}.pos_embed": (1, places, eyes)}
    shapes |= {f"{see}.patch_embed.proj.weight": (eyes, 3, patch, patch), f"{see}.patch_embed.proj.bias": (eyes,)}
    for i in range(depth):
        block = f"{see}.blocks.{i}"
        shapes |= _norm(f"{block}.norm1", eyes) | _linear(f"{block}.attn.qkv", 3 * eyes, eyes)
        shapes |= _linear(f"{block}.attn.proj", eyes, eyes) | _norm(f"{block}.norm2", eyes)
        shapes |= _linear(f"{block}.mlp.fc1", 2 * eyes, eyes) | _linear(f"{block}.mlp.fc2", eyes, 2 * eyes)
    shapes |= _norm(f"{see}.norm", eyes)
    shapes |= {f"{read}.embeddings.word_embeddings.weight": (words, text)}
    shapes |= {f"{read}.embeddings.position_embeddings.weight": (40, text)} | _norm(
        f"{read}.embeddings.LayerNorm", text
    )
    for i in range(depth):
        layer = f"{read}.encoder.layer.{i}"
        for attention, into in (("attention", text), ("crossattention", eyes)):
            shapes |= _linear(f"{layer}.{attention}.self.query", text, text)
            shapes |= _linear(f"{layer}.{attention}.self.key", text, into)
            shapes |= _linear(f"{layer}.{attention}.self.value", text, into)
            shapes |= _linear(f"{layer}.{attention}.output.dense", text, text)
            shapes |= _norm(f"{layer}.{attention}.output.LayerNorm", text)
        shapes |= _linear(f"{layer}.intermediate.dense", 2 * text, text) | _linear(
            f"{layer}.output.dense", text, 2 * text
        )
        shapes |= _norm(f"{layer}.output.LayerNorm", text)
    shapes |= _linear("blip.vision_proj", 8, eyes) | _linear("blip.text_proj", 8, text)  # published, and not used
    found = random_tensors(shapes, seed) | {f"mlp.{k}": v for k, v in head(text, seed + 1).items()}
    return found | {f"{read}.embeddings.position_ids": torch.arange(40)[None]}


def open_clip(words, seed=0, eyes=128, text=64, joint=16, depth=2, patch=4, side=16, longest=16):
    """The tensors of one of open_clip's ViT models, as HPS v2 holds them: published names, smaller sizes."""
    shapes = {"logit_scale": (), "positional_embedding": (longest, text), "text_projection": (text, joint)}
    shapes |= {"visual.class_embedding": (eyes,), "visual.positional_embedding": ((side // patch) ** 2 + 1, eyes)}
    shapes |= {"visual.proj": (eyes, joint), "visual.conv1.weight": (eyes, 3, patch, patch)}
    shapes |= _norm("visual.ln_pre", eyes) | _norm("visual.ln_post", eyes) | _norm("ln_final", text)
    shapes |= {"token_embedding.weight": (words, text)}
    for start, width in (("visual.", eyes), ("", text)):
        for i in range(depth):
            block = f"{start}transformer.resblocks.{i}"
            shapes |= _norm(f"{block}.ln_1", width) | _norm(f"{block}.ln_2", width)
            shapes |= {f"{block}.attn.in_proj_weight": (3 * width, width), f"{block}.attn.in_proj_bias": (3 * width,)}
            shapes |= _linear(f"{block}.attn.out_proj", width, width)
            shapes |= _linear(f"{block}.mlp.c_fc", 2 * width, width) | _linear(f"{block}.mlp.c_proj", width, 2 * width)
    return random_tensors(shapes, seed)
