"""The tests that fail under some releases of transformers because of these releases, and why.

`conftest.py` turns an entry into a strict expected failure under the releases that it names: a test that passes there
fails the run, and its entry must go. `flava-port drift` shows what these releases compute differently.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from packaging.specifiers import SpecifierSet


class Why(Enum):
    """What the release does differently from FLAVA's authors."""

    STOPS = "pairs that do not match stop the forward pass where masked losses are computed (IndexError; mended in 4.37.0)"
    PADDING = "the multimodal encoder attends to padding (mended in 4.39.0)"
    SCALE = "the scale of the contrastive loss is clamped in evaluation too (mended in 5.0.0)"


@dataclass(frozen=True)
class Gap:
    """Releases, why they fail, and the tests that show it: a file, a test, or one of its parameters."""

    releases: str
    why: Why
    tests: tuple[str, ...]

    def covers(self, test: str, release: str) -> bool:
        concerned = any(test == name or test.startswith((f"{name}[", f"{name}::")) for name in self.tests)
        return concerned and SpecifierSet(self.releases).contains(release, prereleases=True)


_SAME = "tests/releases/test_observation.py::test_the_installed_release_computes_what_the_original_does"
_CAUGHT = "tests/proof/test_mutated_transformers.py::test_a_mutated_transformers_is_caught_and_the_first_module_to_diverge_is_named"

GAPS = (
    Gap(
        "<4.37",
        Why.STOPS,
        (
            f"{_SAME}[pairs, labels, some mismatched]",
            f"{_SAME}[pairs, labels, training]",
            f"{_CAUGHT}[a layer norm's epsilon]",
            f"{_CAUGHT}[an activation]",
            f"{_CAUGHT}[an attention scale]",
            f"{_CAUGHT}[positions]",
            f"{_CAUGHT}[a padding mask]",
            "tests/proof/test_mutated_transformers.py::test_a_difference_from_above_is_not_blamed_on_what_lies_below",
            "tests/proof/test_gradients.py::test_a_value_that_differs_shows_in_the_block_and_in_its_gradients",
            "tests/proof/test_streaming.py::test_no_gradient_of_a_large_matrix_is_whole",
            "tests/proof/test_large_models.py::test_a_fault_of_an_inner_layer_or_of_the_masked_pass_alone_is_caught",
            "tests/proof/test_on_device.py::test_another_activation_is_caught_in_both_precisions[cpu]",
            "tests/proof/test_other_uses.py::test_training_keeps_the_scale_between_1_and_100_as_the_authors_do",
            "tests/proof/test_torchmultimodal.py::test_with_the_encoders_epsilon_in_the_heads_nothing_differs",
            "tests/proof/test_torchmultimodal.py::test_a_scale_outside_of_their_clamp_is_found",
        ),
    ),
    Gap(
        "<4.39",
        Why.PADDING,
        (
            f"{_SAME}[pairs, padded texts]",
            f"{_SAME}[pairs, padded texts, the multimodal encoder on unmasked inputs too]",
            f"{_SAME}[pairs, one text nothing but padding]",
            f"{_SAME}[pairs, padded texts, labels, some mismatched]",
            f"{_SAME}[pairs, every hidden state and attention]",
            f"{_SAME}[FlavaModel, padded texts]",
            f"{_CAUGHT}[a head's epsilon]",
            f"{_CAUGHT}[a pooled token]",
            "tests/proof/test_mutated_transformers.py::test_a_module_that_computes_wrong_is_blamed_itself",
            "tests/proof/test_gradients.py::test_only_the_gradients_differ_where_only_they_are_wrong",
            "tests/proof/test_gradients.py::test_a_clean_folder_is_proven_whatever_its_size",
            "tests/proof/test_acceptance.py::test_every_claim_about_an_original_checkpoint_is_proven",
            "tests/proof/test_acceptance.py::test_every_claim_about_a_torchmultimodal_checkpoint_is_proven",
            "tests/proof/test_acceptance.py::test_the_claim_that_differs_fails_and_no_other",
            "tests/proof/test_any_config.py::test_a_converted_model_of_any_config_computes_the_same",
            "tests/proof/test_large_models.py::test_a_clean_model_is_proven",
            "tests/proof/test_large_models.py::test_a_right_model_is_proven_however_it_computes",
            "tests/proof/test_large_models.py::test_a_wrong_gradient_of_a_large_matrix_is_caught",
            "tests/proof/test_on_device.py::test_a_clean_model_is_as_near_the_exact_result_as_the_original[cpu]",
            "tests/proof/test_on_device.py::test_a_clean_large_model_is_not_accused[cpu]",
            "tests/proof/test_other_uses.py::test_training_computes_what_evaluation_does",
            "tests/proof/test_torchmultimodal.py::test_a_converted_torchmultimodal_checkpoint_is_proven_in_every_part",
            "tests/proof/test_torchmultimodal.py::test_heads_in_which_the_epsilon_decides_are_refused",
            "tests/proof/test_torchmultimodal.py::test_one_converted_without_its_codebook_is_proven_where_that_is_said",
            "tests/proof/test_clean_folders.py::test_every_form_of_a_checkpoint_is_proven",
            "tests/proof/test_clean_folders.py::test_a_clean_folder_is_proven_in_every_part",
            "tests/proof/test_tolerances.py::test_weights_that_saturate_are_proven_with_seeded_ones_in_their_place",
            "tests/proof/test_tolerances.py::test_agreement_counts_for_nothing_where_rounding_would_hide_a_fault",
            "tests/proof/test_tolerances.py::test_weights_that_overflow_or_are_no_numbers_are_not_accused[norms at 1e38]",
            "tests/proof/test_tolerances.py::test_weights_that_overflow_or_are_no_numbers_are_not_accused[attention times 1e10]",
            "tests/proof/test_tolerances.py::test_the_report_prints_the_margin_between_rounding_and_the_weakest_fault",
            "tests/proof/test_verify_command.py::test_a_proven_folder_exits_0_with_a_certificate",
            "tests/proof/test_verify_command.py::test_converting_with_verify_proves_the_computation_too",
            "tests/proof/test_processor.py::test_verify_proves_the_processor",
            "tests/proof/test_processor.py::test_verify_without_a_tokenizer_says_so_in_its_last_line",
            "tests/conversion/test_card.py::test_converting_with_verify_adds_its_claims",
            "tests/releases/test_processing_is_observed.py::test_from_files_and_sentences_come_the_originals_logits",
        ),
    ),
    Gap(
        "<5",
        Why.SCALE,
        (
            f"{_SAME}[logit scale above 4.6052]",
            f"{_SAME}[logit scale below 0]",
            "tests/proof/test_other_uses.py::test_evaluation_leaves_the_scale_as_the_checkpoint_has_it",
        ),
    ),
)


def gaps_of(test: str, release: str) -> Iterator[Gap]:
    """The entries for a test (``tests/x/test_y.py::test_z[parameter]``) under a release of transformers."""
    return (gap for gap in GAPS if gap.covers(test, release))
