"""A checkpoint's `BertModel` as ONNX, for the engines that read that."""


def export(folder, path):
    """Writes the model of `folder` to `path`, unless it is there. All lengths may vary."""
    if path.exists():
        return
    import torch
    from transformers import BertModel

    model = BertModel.from_pretrained(folder, attn_implementation="eager").eval()

    class Export(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, input_ids, attention_mask, token_type_ids):
            return self.model(
                input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
            ).last_hidden_state

    ids = torch.randint(5, 1000, (2, 16))
    mask = torch.ones_like(ids)
    mask[1, 10:] = 0
    inputs, output = ["input_ids", "attention_mask", "token_type_ids"], "last_hidden_state"
    axes = {name: {0: "batch", 1: "sequence"} for name in [*inputs, output]}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.onnx.export(Export(), (ids, mask, torch.zeros_like(ids)), path, input_names=inputs,
                      output_names=[output], dynamic_axes=axes, opset_version=17, dynamo=False)
