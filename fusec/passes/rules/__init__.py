"""One file per fusion rule; the pipeline in `fusec.passes.pipeline` says which level uses which."""
