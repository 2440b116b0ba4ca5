"""The model of tests/model/saved_modules_test.cpp."""
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed_tokens = nn.Embedding(12, 6)
        self.up = nn.Linear(6, 8)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 4)
        self.score = nn.Linear(4, 3)

    def forward(self, ids):
        return self.score(self.head(self.norm(torch.tanh(self.up(self.embed_tokens(ids))))))
