def test_x(tiny, flava_port, tmp_path):
    ran = flava_port("convert", "--checkpoint_path", tiny.checkpoint, "--codebook_path", tiny.codebook, "--pytorch_dump_folder_path", tmp_path / "o")
    assert ran.status == 0, ran
