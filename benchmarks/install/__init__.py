"""Installing an update: beside RAUC on one emulated device, and beside the plainest write."""
