"From folders of NIfTI files (or a simulated cohort) to slices and batches, and from images back to files."
