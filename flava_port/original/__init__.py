"""The original FLAVA and the DALL-E image encoder in plain torch, under their original key names.

Converted models are judged by this reference, so `config`, `encoder`, `heads`, `flava` and `codebook` import nothing but
torch and the standard library. `seeded` makes weights for them.

Sources, named again where each is used:

- FLAVA: arXiv 2112.04482, sections 3.1 (encoders), 3.2 (multimodal objectives), 3.3 (unimodal ones)
- ViT: arXiv 2010.11929, section 3.1; BEiT: arXiv 2106.08254, section 2; BERT: arXiv 1810.04805, section 3
- DALL-E: arXiv 2102.12092, appendix A, and the package `DALL-E` 0.1 (names and sizes)
- torchmultimodal-nightly 2024.4.1: flava/model.py, losses/flava.py (what feeds what)

Letters in shapes: B pairs, N patches, T text tokens, S tokens of any sequence, D width of an encoder,
M width of the multimodal one, P projection_dim, V vocabulary, K labelled positions, U pairs used.
"""
