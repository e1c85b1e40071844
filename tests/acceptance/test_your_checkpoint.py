"""The tests that a wheel brings for your own files, run here too; see `flava_port.acceptance`."""

from flava_port.acceptance.test_claims import certificate, test_no_claim_is_left_without_a_test, test_your_converted_checkpoint

__all__ = ["certificate", "test_no_claim_is_left_without_a_test", "test_your_converted_checkpoint"]
