"""The owl: f_V, f_K and f_L composed into one Transformers model.

Placeholders in `input_ids` are token ids; each stands for one position that the abstractor fills. The published
vocabularies have no spare id, so there the image id is the number of embedding rows and the video id one more: they
are never looked up, never sampled, and the embedding is never resized. This file knows nothing of text, chat or files.

Shapes: B batch, L row length, V vocabulary, D width, M images or videos, T frames, Q + 1 positions of one image.
"""

from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.configuration_utils import SubConfigSpec
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling, CausalLMOutputWithPast
from transformers.modeling_utils import slice_logits_to_keep
from transformers.utils import torch_compilable_check
from transformers.utils.generic import can_return_tuple

from mplug_owl.errors import CheckpointError, ConfigError, RequestError
from mplug_owl.models.bloom import OwlBloomModel
from mplug_owl.models.connectors import connector
from mplug_owl.models.decoders import language_model
from mplug_owl.models.generation import OwlGenerationMixin
from mplug_owl.models.loss import IGNORED, token_loss
from mplug_owl.models.masks import as_attention_takes
from mplug_owl.models.towers import OwlTower, OwlTowerConfig
from mplug_owl.models.vision import OwlVisionModel


@strict
class OwlConfig(PreTrainedConfig):
    model_type = "mplug_owl"
    sub_configs_defaults = {
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="mplug_owl_vision"),
        "abstractor_config": SubConfigSpec(config_class=AutoConfig, model_type="mplug_owl_abstractor"),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="llama"),
    }

    vision_config: dict | PreTrainedConfig | None = None
    abstractor_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    image_token_id: int | None = None
    """Id of an image position; the vocabulary size unless given."""
    video_token_id: int | None = None
    """Id of a video position; the vocabulary size plus one unless given."""
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.tie_word_embeddings = bool(self.text_config.tie_word_embeddings)
        self.check_fit()
        if self.image_token_id is None:
            self.image_token_id = self.text_config.vocab_size
        if self.video_token_id is None:
            self.video_token_id = self.text_config.vocab_size + 1

    def check_fit(self) -> None:
        """The three modules must meet: widths, tokens, and the patch grid the position tables are for."""
        vision, abstractor, text = self.vision_config, self.abstractor_config, self.text_config
        entry = "hidden_size" if abstractor.model_type == "mplug_owl_abstractor" else "input_size"
        meetings = [
            (f"abstractor {entry}", abstractor.input_size, "vision hidden_size", vision.hidden_size),
            ("abstractor output_size", abstractor.output_size, "text hidden_size", text.hidden_size),
        ]
        if getattr(abstractor, "position_grid", None) is not None:
            side = abstractor.position_grid
            meetings.append(("abstractor position_grid", side, "image_size / patch_size", vision.grid))
        if hasattr(abstractor, "num_tokens"):
            meetings.append(("connector num_tokens", abstractor.num_tokens, "vision num_tokens", vision.num_tokens))
        for name, value, other, expected in meetings:
            if value != expected:
                raise ConfigError(f"{name}={value} does not fit {other}={expected}: make them equal")

    @property
    def media_length(self) -> int:
        """Positions of one image in the language model, such as the queries and the end of image."""
        return self.abstractor_config.positions


def vision_model(config: PreTrainedConfig) -> PreTrainedModel:
    """f_V: the ViT of the papers, or a tower from elsewhere."""
    return OwlTower(config) if isinstance(config, OwlTowerConfig) else OwlVisionModel(config)


class OwlPreTrainedModel(PreTrainedModel):
    config: OwlConfig
    base_model_prefix = "model"
    input_modalities = ("image", "video", "text")
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True


class OwlModel(OwlPreTrainedModel):
    """The three modules without the language head."""

    def __init__(self, config: OwlConfig) -> None:
        super().__init__(config)
        self.vision = vision_model(config.vision_config)
        self.abstractor = connector(config.abstractor_config)
        self.language_model = language_model(config.text_config)
        self.post_init()

    def get_image_features(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """[M, 3, X, Y] -> `pooler_output` [M, Q + 1, D]."""
        tokens = self.vision(pixel_values).last_hidden_state
        summary = self.abstractor(tokens).last_hidden_state
        return BaseModelOutputWithPooling(last_hidden_state=tokens, pooler_output=summary)

    def get_video_features(
        self, pixel_values_videos: Tensor | list[Tensor], **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """[M, T, 3, X, Y], or a list of [T, 3, X, Y] -> `pooler_output` [M, Q + 1, D].

        Without a temporal branch each frame counts as an image: [all frames, Q + 1, D].
        """
        videos = list(pixel_values_videos)
        if not self.config.vision_config.temporal:
            return self.get_image_features(torch.cat(videos))
        # Videos of one length run together; lengths are never padded to each other, so no frame can leak.
        summaries: list[Tensor] = [None] * len(videos)
        for frames in sorted({len(video) for video in videos}):
            members = [i for i, video in enumerate(videos) if len(video) == frames]
            tokens = self.vision(torch.cat([videos[i] for i in members]), num_frames=frames).last_hidden_state
            tokens = tokens.unflatten(0, (-1, frames)).flatten(1, 2)
            summary = self.abstractor(tokens, is_video=frames > 1).last_hidden_state
            for i, row in zip(members, summary, strict=True):
                summaries[i] = row
        return BaseModelOutputWithPooling(pooler_output=torch.stack(summaries))

    def is_media(self, input_ids: Tensor) -> Tensor:
        return (input_ids == self.config.image_token_id) | (input_ids == self.config.video_token_id)

    def embed_text(self, input_ids: Tensor) -> Tensor:
        """Embeddings of text ids; media positions get those of id 0, to be overwritten."""
        input_ids = input_ids.masked_fill(self.is_media(input_ids), 0)
        if isinstance(self.language_model, OwlBloomModel):
            return self.language_model.embed_text(input_ids)
        return self.get_input_embeddings()(input_ids)

    def get_placeholder_mask(self, input_ids: Tensor, features: dict[str, Tensor | None]) -> dict[str, Tensor]:
        """Masks [B, L] of the image and video positions; their counts must equal the rows of `features`."""
        masks = {}
        for modality in ("image", "video"):
            token_id = getattr(self.config, f"{modality}_token_id")
            masks[modality] = mask = input_ids == token_id
            rows = features.get(modality)
            have = 0 if rows is None else rows.shape[0] * rows.shape[1]
            torch_compilable_check(
                mask.sum() == have,
                lambda mask=mask, have=have, modality=modality, token_id=token_id: (
                    f"{int(mask.sum())} {modality} position(s) (id {token_id}) in input_ids, but "
                    f"the {modality} pixels give {have} ({self.config.media_length} each): every "
                    "picture needs its placeholders"
                ),
                RequestError,
            )
        return masks

    def embed(self, input_ids: Tensor, features: dict[str, Tensor]) -> Tensor:
        """Input embeddings [B, L, D]: text looked up, media rows of `features` in reading order."""
        embeds = self.embed_text(input_ids)
        masks = self.get_placeholder_mask(input_ids, features)
        for modality, rows in features.items():
            mask = masks[modality][..., None].to(embeds.device)
            embeds = embeds.masked_scatter(mask, rows.to(embeds.device, embeds.dtype))
        return embeds

    def visual_index(self, input_ids: Tensor, features: dict[str, Tensor]) -> Tensor | None:
        """Flat positions of all visual rows; their number is known, so no step waits for the device.

        In training the index exists even when empty, so that the visual branch always takes part.
        """
        count = sum(rows.shape[0] * rows.shape[1] for rows in features.values())
        if not count and not self.training:
            return None
        return self.is_media(input_ids).flatten().int().argsort(descending=True, stable=True)[:count]

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        pixel_values_videos: Tensor | list[Tensor] | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        visual_index: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """`visual_index` is needed only beside `inputs_embeds`; with `input_ids` it is found from them."""
        if (input_ids is None) == (inputs_embeds is None):
            raise RequestError("give exactly one of input_ids and inputs_embeds")
        if inputs_embeds is None:
            features = self.media_features(pixel_values, pixel_values_videos, mm_encoder_outputs)
            # A decode step holds no media; everything longer is checked, also when no pixels came with it.
            may_hold_media = bool(features) or input_ids.shape[1] > 1 or past_key_values is None
            inputs_embeds = self.embed(input_ids, features) if may_hold_media else self.embed_text(input_ids)
            if visual_index is None and getattr(self.language_model, "takes_visual_index", False):
                visual_index = self.visual_index(input_ids, features)
        elif pixel_values is not None or pixel_values_videos is not None or mm_encoder_outputs:
            raise RequestError("inputs_embeds already hold the media: give pixels with input_ids instead")
        if visual_index is not None:
            kwargs["visual_index"] = visual_index
        if attention_mask is not None and attention_mask.ndim == 4:
            text = self.config.text_config
            attention_mask = as_attention_takes(attention_mask, text, inputs_embeds.dtype)
        elif position_ids is None and attention_mask is not None:
            # Real tokens are numbered from 0 wherever the padding lies, so a padded row equals the row alone.
            position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -inputs_embeds.shape[1] :]
        return self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            **kwargs,
        )

    def media_features(
        self,
        pixel_values: Tensor | None,
        pixel_values_videos: Tensor | list[Tensor] | None,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None,
    ) -> dict[str, Tensor]:
        """The abstractor's rows by modality, computed here or brought along; only modalities that are there."""
        outputs = dict(mm_encoder_outputs or {})
        for modality, pixels, encode in (
            ("image", pixel_values, self.get_image_features),
            ("video", pixel_values_videos, self.get_video_features),
        ):
            if pixels is None or len(pixels) == 0:
                continue
            if outputs.get(modality) is not None:
                raise RequestError(f"both {modality} pixels and {modality} features given: give one of them")
            outputs[modality] = encode(pixels)
        return {name: output.pooler_output for name, output in outputs.items() if output is not None}


class OwlForConditionalGeneration(OwlPreTrainedModel, OwlGenerationMixin):
    """The owl with its language head: pictures, videos and text in, text out."""

    def __init__(self, config: OwlConfig) -> None:
        super().__init__(config)
        self.model = OwlModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        table = next(n for n, m in self.model.language_model.named_children() if isinstance(m, nn.Embedding))
        self._tied_weights_keys = {"lm_head.weight": f"model.language_model.{table}.weight"}
        self.post_init()

    def get_image_features(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        return self.model.get_image_features(pixel_values, **kwargs)

    def get_video_features(
        self, pixel_values_videos: Tensor | list[Tensor], **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        return self.model.get_video_features(pixel_values_videos, **kwargs)

    @classmethod
    def from_pretrained(cls, name_or_path: Any, *args: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
        """The library's, but weights that are missing or do not fit are an error, not a warning."""
        may_differ = kwargs.pop("ignore_mismatched_sizes", False)
        try:
            model, info = super().from_pretrained(
                name_or_path,
                *args,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # judged below, with both shapes
                **kwargs,
            )
        except SafetensorError as error:
            raise CheckpointError(
                f"{name_or_path}: weights cannot be read ({error}); copy or download them again"
            ) from None
        faults = {
            "missing": info["missing_keys"],
            "unexpected": info["unexpected_keys"],
            "of another shape than config.json says": () if may_differ else info["mismatched_keys"],
        }
        for fault, names in faults.items():
            if names:
                raise CheckpointError(
                    f"{name_or_path}: {len(names)} tensor(s) {fault}, first "
                    f"{min(map(str, names))}; expected exactly those its config.json describes"
                )
        return (model, info) if output_loading_info else model

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        pixel_values_videos: Tensor | list[Tensor] | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        visual_index: Tensor | None = None,
        ntk_alpha: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits, and the loss if `labels` are given.

        `num_items_in_batch` (supervised tokens of the whole step) turns the mean loss into a share of it; `ntk_alpha`
        (Owl2.1) is the rotary stretch of each row, found from the prompt if left out.
        """
        if ntk_alpha is not None:
            kwargs["ntk_alpha"] = ntk_alpha
        outputs = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            pixel_values_videos=pixel_values_videos,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            mm_encoder_outputs=mm_encoder_outputs,
            visual_index=visual_index,
            **kwargs,
        )
        kept = slice_logits_to_keep(outputs.last_hidden_state, logits_to_keep)
        # As plain rows: on a CPU a [B, 1, D] slice would make the head copy its whole weight.
        logits = self.lm_head(kept.reshape(-1, kept.shape[-1])).unflatten(0, kept.shape[:-1])
        loss = None
        if labels is not None:
            labels = labels.masked_fill(labels >= logits.shape[-1], IGNORED)  # media ids are no words
            loss = token_loss(logits, labels, num_items_in_batch)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
