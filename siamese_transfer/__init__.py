"""The console command `siamese-transfer`: every command of the suite, from any folder."""
