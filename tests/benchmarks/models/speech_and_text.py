"""transformers' models from small configurations, and BERT in its usual size; inputs are named and partly padded."""

import functools

import torch

WORDS, LENGTH, WIDTH, SIDE, SOUND = 512, 16, 64, 64, 4000
TEXT = {
    "vocab_size": WORDS,
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 64,
}
PICTURE = {**{key: value for key, value in TEXT.items() if key not in ("vocab_size", "max_position_embeddings")}}
SPEECH_ENCODER = {
    **PICTURE,
    "vocab_size": 32,
    "conv_dim": (32, 32, 32),
    "conv_kernel": (10, 3, 3),
    "conv_stride": (5, 2, 2),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


def tokens(batch, words=WORDS, length=LENGTH):
    return torch.randint(5, words, (batch, length), generator=torch.Generator().manual_seed(batch))


def padded(batch, **given):
    """Tokens and a mask whose last sequence ends early."""
    mask = torch.ones(batch, LENGTH, dtype=torch.long)
    mask[-1, LENGTH - 4 :] = 0
    return {"input_ids": tokens(batch, **given), "attention_mask": mask}


def translation(batch):
    return {**padded(batch), "decoder_input_ids": tokens(batch, length=6)}


def pictures(batch):
    return {"pixel_values": random(batch, 3, SIDE, SIDE)}


def sound(batch):
    return {"input_values": random(batch, SOUND)}


def make(model, configuration, **given):
    import transformers

    return getattr(transformers, model)(getattr(transformers, configuration)(**given))


def case(size, model, configuration, inputs, **given):
    return size, functools.partial(make, model, configuration, **given), inputs


TRANSFORMERS = {
    "BERT": case(0.1, "BertForSequenceClassification", "BertConfig", padded, **TEXT),
    "BERT-base": case(109.5, "BertModel", "BertConfig", padded),
    "DistilBERT": case(
        0.1,
        "DistilBertForSequenceClassification",
        "DistilBertConfig",
        padded,
        vocab_size=WORDS,
        dim=WIDTH,
        n_layers=2,
        n_heads=4,
        hidden_dim=128,
        max_position_embeddings=64,
    ),
    "RoBERTa": case(0.1, "RobertaForMaskedLM", "RobertaConfig", padded, **TEXT),
    "ALBERT": case(0.1, "AlbertForSequenceClassification", "AlbertConfig", padded, embedding_size=32, **TEXT),
    "DeBERTa": case(
        0.1,
        "DebertaForSequenceClassification",
        "DebertaConfig",
        padded,
        **TEXT,
        relative_attention=True,
        pos_att_type="c2p|p2c",
    ),
    "DeBERTa-v2": case(
        0.1,
        "DebertaV2ForSequenceClassification",
        "DebertaV2Config",
        padded,
        **TEXT,
        relative_attention=True,
        pos_att_type="c2p|p2c",
    ),
    "ELECTRA": case(0.1, "ElectraForSequenceClassification", "ElectraConfig", padded, embedding_size=32, **TEXT),
    "GPT-2": case(
        0.1,
        "GPT2LMHeadModel",
        "GPT2Config",
        padded,
        vocab_size=WORDS,
        n_positions=64,
        n_embd=WIDTH,
        n_layer=2,
        n_head=4,
    ),
    "Llama": case(0.1, "LlamaForCausalLM", "LlamaConfig", padded, num_key_value_heads=2, **TEXT),
    "T5": case(
        0.2,
        "T5ForConditionalGeneration",
        "T5Config",
        translation,
        vocab_size=WORDS,
        d_model=WIDTH,
        d_kv=16,
        d_ff=128,
        num_layers=2,
        num_heads=4,
    ),
    "ViT": case(0.1, "ViTForImageClassification", "ViTConfig", pictures, **PICTURE, image_size=SIDE, patch_size=16),
    "DeiT": case(0.1, "DeiTForImageClassification", "DeiTConfig", pictures, **PICTURE, image_size=SIDE, patch_size=16),
    "Swin": case(
        0.2,
        "SwinForImageClassification",
        "SwinConfig",
        pictures,
        image_size=SIDE,
        patch_size=4,
        embed_dim=32,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=4,
    ),
    "SegFormer": case(
        0.3,
        "SegformerForSemanticSegmentation",
        "SegformerConfig",
        pictures,
        depths=[1, 1, 1, 1],
        hidden_sizes=[16, 32, 48, 64],
        num_attention_heads=[1, 2, 3, 4],
        decoder_hidden_size=32,
    ),
    "Whisper": case(
        0.3,
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        lambda batch: {"input_features": random(batch, 20, 100), "decoder_input_ids": tokens(batch, length=6)},
        vocab_size=WORDS,
        num_mel_bins=20,
        d_model=WIDTH,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        max_source_positions=50,
        max_target_positions=32,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    ),
    "Wav2Vec2": case(0.3, "Wav2Vec2ForCTC", "Wav2Vec2Config", sound, **SPEECH_ENCODER),
}
"""Millions of parameters, what builds the model, and its inputs."""

SPEECH = {
    "HuBERT": case(0.3, "HubertForCTC", "HubertConfig", sound, **SPEECH_ENCODER),
    "Parakeet": case(
        0.4,
        "ParakeetForCTC",
        "ParakeetCTCConfig",
        lambda batch: {"input_features": random(batch, 64, 80)},
        vocab_size=32,
        encoder_config={
            **PICTURE,
            "num_mel_bins": 80,
            "subsampling_conv_channels": 32,
            "max_position_embeddings": 64,
            "dropout": 0.0,
        },
    ),
    "AST": case(
        0.2,
        "ASTForAudioClassification",
        "ASTConfig",
        lambda batch: {"input_values": random(batch, 64, 32)},
        **PICTURE,
        max_length=64,
        num_mel_bins=32,
    ),
}
