"""The proof for your own files, a test a claim: pytest --pyargs flava_port.acceptance --flava-checkpoint P --flava-converted OUT."""
