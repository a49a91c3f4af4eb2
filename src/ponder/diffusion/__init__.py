"""Denoising models: schedules, steps, exact mixtures, a small trained model; see `ponder.processes.denoising`."""
