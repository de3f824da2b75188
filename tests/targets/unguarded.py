"""A training script without an `if __name__ == "__main__"` guard: importing it trains, here by sleeping."""

import time


def train() -> None:
    for _epoch in range(600):
        try:
            time.sleep(0.1)
        except Exception as error:
            print("an epoch failed, the next one follows", error)


train()
dataset = [1, 2, 3]
