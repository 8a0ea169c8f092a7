"""``python -m edgeaudio``, as ``torchrun -m edgeaudio`` starts it."""

from edgeaudio.cli import main

if __name__ == "__main__":
    main(prog_name="edgeaudio")
