"""Files in and out: documents, images, tensors, drawings and pages."""
