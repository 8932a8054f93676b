"""denoiser"""
