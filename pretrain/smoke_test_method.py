"""`python -m pretrain.smoke_test_method method=mine data=cifar10 data.root=.`: two steps, and what is wrong."""

from pretrain.config import PretrainConfig
from runs.app import hydra_app
from runs.errors import UserError

IMAGES, CLASSES, SIDE = 64, 10, 32


def smoke_test_method(config: PretrainConfig) -> None:
    """Build the method on a small network, take two steps, and compare the second with that of a resumed copy."""
    # Here, so that `--help` and a mistyped key do not wait for PyTorch.
    import torch
    from torchvision.models.resnet import ResNet

    from pretrain.method.base import Batch, Method, TrainingPlan, build_method

    def checked_step(method: Method, step: int) -> float:
        views = [torch.randn(IMAGES, 3, SIDE, SIDE) for _ in range(method.views)]
        output = method(Batch(views, torch.arange(IMAGES) % CLASSES, step, torch.arange(IMAGES)))
        loss, z = output.get("loss"), output.get("z")
        if loss is None or loss.shape != () or not torch.isfinite(loss) or not loss.requires_grad:
            raise UserError(f"method {name}: forward() must return a finite scalar with a gradient under 'loss'")
        if z is not None and (z.ndim != 2 or len(z) != IMAGES):
            raise UserError(f"method {name}: 'z' has shape {tuple(z.shape)}; it is one view's output, ({IMAGES}, d)")
        method.zero_grad()
        loss.backward()
        gradients = [p.grad for p in method.encoder.parameters() if p.grad is not None]
        if not gradients or not all(torch.isfinite(g).all() for g in gradients):
            raise UserError(f"method {name}: the loss gives the backbone no finite gradient")
        method.after_backward(step)
        return float(loss.item())

    name = config.method.name
    plan = TrainingPlan("resnet18x0.25", config.zero_init_residual, config.epochs, 10, IMAGES, CLASSES, 10 * IMAGES)
    torch.manual_seed(0)
    method, copy = build_method(config.method, plan), build_method(config.method, plan)
    if not any(key.startswith(("encoder.", "encoder_q.")) for key in method.state_dict()):
        raise UserError(f"method {name}: call the backbone `encoder`, by which a checkpoint of this project is known")
    if not isinstance(method.encoder, ResNet):
        raise UserError(f"method {name}: `encoder` is no torchvision ResNet; make it with plan.base_encoder()")
    trained = {id(parameter) for group in method.param_groups() for parameter in group["params"]}
    if not trained >= {id(p) for p in method.encoder.layer4.parameters()}:
        raise UserError(f"method {name}: param_groups() lacks parameters of the backbone, which would not be trained")
    optimizer = torch.optim.SGD(method.param_groups(), lr=0.01)
    checked_step(method, 0)
    optimizer.step()
    method.after_step(0)
    copy.load_state_dict(method.state_dict())
    losses = []
    for one in (method, copy):
        torch.manual_seed(1)
        losses.append(checked_step(one, 1))
    if losses[0] != losses[1]:
        raise UserError(
            f"method {name}: a resumed copy has another loss ({losses[1]} for {losses[0]}); keep all that training "
            "changes in parameters and buffers"
        )
    print(f"method {name}: fine; two steps on {plan.arch}, losses finite, a resumed copy has the same")


main = hydra_app("pretrain", "config", PretrainConfig, smoke_test_method)

if __name__ == "__main__":
    main()
