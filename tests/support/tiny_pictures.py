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
