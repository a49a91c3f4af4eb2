"""Tiny pipelines of diffusers with random weights, one for each family, saved in its format."""

import json

import diffusers
import torch
import transformers
from tiny_pictures import clip_words, stable_diffusion, text_settings

__all__ = ["FAMILIES", "stable_diffusion"]


def t5_words(length=16):
    """A T5 tokenizer of single letters."""
    letters = list("▁abcdefghijklmnopqrstuvwxyz0123456789")
    special = ["<pad>", "</s>", "<unk>"]
    vocab = [(token, 0.0) for token in special] + [(letter, -float(i)) for i, letter in enumerate(letters)]
    return transformers.T5TokenizerFast(vocab=vocab, extra_ids=0, model_max_length=length)


def t5(words, kind="T5"):
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=len(words), d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=4, pad_token_id=0, eos_token_id=1
    )
    return getattr(transformers, f"{kind}EncoderModel")(config).eval()


def clip_text(words, projection=None):
    """A CLIP text encoder; with a projection, of pooled text."""
    settings = text_settings(words) | {"bos_token_id": 0}
    if projection is None:
        return transformers.CLIPTextModel(transformers.CLIPTextConfig(**settings))
    config = transformers.CLIPTextConfig(**settings, projection_dim=projection)
    return transformers.CLIPTextModelWithProjection(config)


def picture_vae(channels=4, **options):
    """Pictures twice the size of the latents."""
    return diffusers.AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=channels,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        sample_size=16,
        **options,
    )


def stable_diffusion_xl(folder):
    words = clip_words(folder / "made")
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=4,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=8 + 6 * 4,
    )
    return diffusers.StableDiffusionXLPipeline(
        vae=picture_vae(force_upcast=True),
        text_encoder=clip_text(words),
        text_encoder_2=clip_text(words, 8),
        tokenizer=words,
        tokenizer_2=words,
        unet=unet,
        scheduler=diffusers.EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            timestep_spacing="leading",
            steps_offset=1,
        ),  # as published
    )


def stable_diffusion_3(folder):
    words, pieces = clip_words(folder / "made"), t5_words()
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=32,
        caption_projection_dim=32,
        pooled_projection_dim=16,
        out_channels=4,
        pos_embed_max_size=16,
    )
    return diffusers.StableDiffusion3Pipeline(
        transformer=transformer,
        vae=picture_vae(shift_factor=0.0609, scaling_factor=1.5305),
        text_encoder=clip_text(words, 8),
        tokenizer=words,
        text_encoder_2=clip_text(words, 8),
        tokenizer_2=words,
        text_encoder_3=t5(pieces),
        tokenizer_3=pieces,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def flux(folder, guidance_embeds=True):
    words, pieces = clip_words(folder / "made"), t5_words()
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=16,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=guidance_embeds,
    )
    shift = dict(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15) if guidance_embeds else dict(shift=1.0)
    return diffusers.FluxPipeline(
        transformer=transformer,
        vae=picture_vae(shift_factor=0.1159, scaling_factor=0.3611),
        text_encoder=clip_text(words),
        tokenizer=words,
        text_encoder_2=t5(pieces),
        tokenizer_2=pieces,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**shift),
    )


def flux_schnell(folder):
    return flux(folder, guidance_embeds=False)


def dit(folder):
    transformer = diffusers.DiTTransformer2DModel(
        sample_size=8,
        num_layers=1,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=2,
        in_channels=4,
        out_channels=8,
        attention_bias=True,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_zero",
        norm_elementwise_affine=False,
    )
    return diffusers.DiTPipeline(transformer, picture_vae(), diffusers.DDIMScheduler(clip_sample=False))


def ltx(folder):
    pieces = t5_words()
    transformer = diffusers.LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        patch_size=1,
        patch_size_t=1,
        num_attention_heads=4,
        attention_head_dim=8,
        cross_attention_dim=32,
        num_layers=1,
        caption_channels=32,
    )
    vae = diffusers.AutoencoderKLLTXVideo(
        in_channels=3,
        out_channels=3,
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1,) * 5,
        decoder_layers_per_block=(1,) * 5,
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False),
        decoder_inject_noise=(False,) * 5,
        upsample_residual=(False,) * 4,
        upsample_factor=(1,) * 4,
        timestep_conditioning=False,
        patch_size=1,
        patch_size_t=1,
    )
    vae.use_framewise_encoding = vae.use_framewise_decoding = False
    vae.latents_mean.normal_()
    vae.latents_std.uniform_(0.5, 2.0)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True,
        base_shift=0.95,
        max_shift=2.05,
        base_image_seq_len=1024,
        max_image_seq_len=4096,
        shift_terminal=0.1,
    )  # as published
    return diffusers.LTXPipeline(scheduler, vae, t5(pieces), pieces, transformer)


def wan(folder, low=False):
    pieces = t5_words()

    def transformer():
        return diffusers.WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=16,
            out_channels=16,
            text_dim=32,
            freq_dim=32,
            ffn_dim=32,
            num_layers=1,
            cross_attn_norm=True,
            qk_norm="rms_norm_across_heads",
            rope_max_seq_len=32,
        )

    return diffusers.WanPipeline(
        tokenizer=pieces,
        text_encoder=t5(pieces, "UMT5"),
        transformer=transformer(),
        vae=diffusers.AutoencoderKLWan(
            base_dim=8, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=0, temperal_downsample=[False, True, True]
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        transformer_2=transformer() if low else None,
        boundary_ratio=0.8 if low else None,
    )


def wan_2_2(folder):
    return wan(folder, low=True)


FAMILIES = {
    f.__name__: f for f in (stable_diffusion_xl, stable_diffusion_3, flux, flux_schnell, dit, ltx, wan, wan_2_2)
}


def saved(family, folder, seed=0):
    """The folder with a pipeline of this family."""
    if family == "stable_diffusion":
        return stable_diffusion(folder, seed)
    torch.manual_seed(seed)
    FAMILIES[family](folder).save_pretrained(folder)
    if family == "dit":  # as published: names of classes
        index = folder / "model_index.json"
        index.write_text(json.dumps(json.loads(index.read_text()) | {"id2label": {"3": "fox, vixen"}}))
    return folder
