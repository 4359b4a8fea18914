"""What ``dg scaffold defs release_pipeline.ReleasePipelineComponent`` writes: a model that can be released as it is."""
