"""What transformers expects of FLAVA: keys, shapes, parts, config, sizes, image processing, by release."""
