"""Makes the messages of `sandboxd/front/grpc/proto` anew: `python -m tests.protos`."""

from pathlib import Path

from tests.protos.generate import FOLDER, ROOT, generate

if __name__ == "__main__":
    generate(ROOT)
    print(f"written to {Path(ROOT, FOLDER)}")
