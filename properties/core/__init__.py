"""The words of the suite: an implementation, a case, a law, a trial, the truth that a trial asks, and a device."""
