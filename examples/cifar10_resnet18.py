"""Prune and quantize ResNet-18 on CIFAR-10 within 1 % relative accuracy, with a training pipeline of one's own.

python examples/cifar10_resnet18.py                     # downloads CIFAR-10 and trains ResNet-18 first
python examples/cifar10_resnet18.py --generated-data    # some made-up images instead: about a minute on a CPU
torchrun --nproc_per_node 4 examples/cifar10_resnet18.py
"""

import argparse
import logging
import os
from pathlib import Path
from types import SimpleNamespace

import json5
import torch
from torch import distributed, nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from autocompress.nncf import (
    CompressionConfig,
    create_accuracy_aware_training_loop,
    create_compressed_model,
    register_default_init_args,
)

# isort: split
# After autocompress: beside a CPU-only torch, torchvision cannot be imported before it.
from torchvision import datasets, models, transforms

RANK, LOCAL_RANK = int(os.environ.get("RANK", "0")), int(os.environ.get("LOCAL_RANK", "0"))
TOGETHER, WORLD = "RANK" in os.environ, int(os.environ.get("WORLD_SIZE", "1"))  # torchrun sets them
CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda", LOCAL_RANK) if CUDA else torch.device("cpu")
CONFIG = Path(__file__).parents[1] / "search_spaces" / "resnet18_cifar10.json5"
FEWER = {"initial_training_phase_epochs": 3, "patience_epochs": 2}  # with generated data: about four rates
FEWER |= {"initial_compression_rate_step": 0.3, "minimal_compression_rate_step": 0.15}
NO_CONTROLLER = SimpleNamespace(loss=float, scheduler=SimpleNamespace(epoch_step=int, step=int))  # all of them give 0


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", default="data", help="directory of CIFAR-10, downloaded where it is missing")
    add("--generated-data", type=int, nargs="?", const=240, metavar="IMAGES", help="instead of CIFAR-10")
    add("--config", type=Path, default=CONFIG, help="NNCF-style configuration")
    add("--log-dir", type=Path, default=Path("runs"), help="each run gets a directory in it")
    add("--pretrained", type=Path, help="state dict of the model, which is trained and saved where it is missing")
    add("--pretrain-epochs", type=int, help="by default 30, with generated data 6")
    add("--resume", type=Path, metavar="DIR", help="directory of a run that was killed")
    add("--batch-size", type=int, help="of each process; by default 128, with generated data 20")
    add("--amp", action=argparse.BooleanOptionalAction, default=CUDA, help="mixed precision, by default on GPUs only")
    add("--export", type=Path, metavar="FILE.onnx")
    given = parser.parse_args()
    name, epochs, size = ("generated", 6, 20) if given.generated_data else ("cifar10", 30, 128)
    logs = given.log_dir if given.resume is None else given.resume.parent
    given.pretrained = given.pretrained or logs / f"resnet18_{name}.pt"
    given.pretrain_epochs, given.batch_size = given.pretrain_epochs or epochs, given.batch_size or size
    return given


def cifar10(directory):
    plain = [transforms.ToTensor(), transforms.Normalize((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))]
    varied = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
    if TOGETHER and LOCAL_RANK != 0:
        distributed.barrier()  # until the first process of this machine has downloaded them
    train = datasets.CIFAR10(directory, train=True, transform=transforms.Compose(varied + plain), download=True)
    test = datasets.CIFAR10(directory, train=False, transform=transforms.Compose(plain), download=True)
    if TOGETHER and LOCAL_RANK == 0:
        distributed.barrier()
    return train, test


def generated(images):
    """Ten coarse patterns under noise; half as many images again to validate."""
    generator = torch.Generator().manual_seed(0)
    patterns = nn.functional.interpolate(torch.randn(10, 3, 4, 4, generator=generator), scale_factor=8)
    labels = torch.arange(images + images // 2) % 10
    pictures = patterns[labels] + torch.randn(len(labels), 3, 32, 32, generator=generator)
    return TensorDataset(pictures[:images], labels[:images]), TensorDataset(pictures[images:], labels[images:])


def loader(dataset, batch_size, *, train):
    sampler = DistributedSampler(dataset, shuffle=train) if TOGETHER else None
    workers = 0 if isinstance(dataset, TensorDataset) else 4
    return DataLoader(dataset, batch_size, train and not TOGETHER, sampler, num_workers=workers, pin_memory=CUDA)


def parallel(model):
    devices = [LOCAL_RANK] if CUDA else None
    return nn.parallel.DistributedDataParallel(model, device_ids=devices) if TOGETHER else model


class Training:
    """The functions that the loop calls."""

    def __init__(self, model, train, test, *, amp):
        self.model, self.train, self.test, self.amp = model, train, test, amp

    def configure_optimizers(self, lr=0.01):
        """Called anew for each rate: the model stays the same object, its parameters do not."""
        self.scaler = torch.amp.GradScaler(DEVICE.type, enabled=self.amp and CUDA)
        lr *= self.train.batch_size * WORLD / 128
        optimizer = torch.optim.SGD(self.model.parameters(), lr, momentum=0.9, nesterov=True, weight_decay=5e-4)
        return optimizer, torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)  # the loop steps it after each epoch

    def train_epoch(self, compression_ctrl, model, epoch, optimizer, lr_scheduler, **kwargs):
        if TOGETHER:
            self.train.sampler.set_epoch(epoch)
        compression_ctrl.scheduler.epoch_step()
        model.train()
        for images, labels in self.train:
            compression_ctrl.scheduler.step()
            optimizer.zero_grad()
            with torch.autocast(DEVICE.type, enabled=self.amp):
                loss = nn.functional.cross_entropy(model(images.to(DEVICE)), labels.to(DEVICE))
                loss = loss + compression_ctrl.loss()
            self.scaler.scale(loss).backward()
            self.scaler.step(optimizer)
            self.scaler.update()

    @torch.no_grad()
    def validate(self, model, epoch=0, **kwargs):
        """Percent of the images of all processes, each of which sees as many."""
        model.eval()
        right = torch.zeros((), device=DEVICE)
        for images, labels in self.test:
            with torch.autocast(DEVICE.type, enabled=self.amp):
                right += (model(images.to(DEVICE)).argmax(1) == labels.to(DEVICE)).sum()
        accuracy = 100 * right / len(self.test.sampler)
        if TOGETHER:
            distributed.all_reduce(accuracy)
        return accuracy.item() / WORLD

    def pretrain(self, model, epochs, file):
        optimizer, lr_scheduler = self.configure_optimizers(lr=0.1)
        for epoch in range(epochs):
            self.train_epoch(NO_CONTROLLER, model, epoch, optimizer, lr_scheduler)
            lr_scheduler.step()
        if RANK == 0:
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.save(self.model.state_dict(), file)


def main(given):
    torch.manual_seed(0)
    if given.generated_data:
        torch.set_num_threads(1)  # for so little work more of them mostly wait for each other
    train, test = generated(given.generated_data) if given.generated_data else cifar10(given.data)
    train, test = loader(train, given.batch_size, train=True), loader(test, given.batch_size, train=False)
    model = models.resnet18(num_classes=10)
    stride = 2 if given.generated_data else 1  # with 2 it is four times faster
    model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, stride, padding=1, bias=False), nn.Identity()  # for small images
    training, whole = Training(model.to(DEVICE), train, test, amp=given.amp), parallel(model)
    if given.pretrained.exists():
        model.load_state_dict(torch.load(given.pretrained, map_location=DEVICE, weights_only=True))
    else:
        training.pretrain(whole, given.pretrain_epochs, given.pretrained)
    uncompressed_accuracy = training.validate(whole)

    config = CompressionConfig.from_json(given.config)
    if given.generated_data:
        settings = json5.loads(given.config.read_text())
        settings["accuracy_aware_training"]["params"].update(FEWER)
        config = CompressionConfig.from_dict(settings)
    torch.manual_seed(0)  # again: from here on the same whether the model was trained or loaded
    config = register_default_init_args(config, train)
    compression_ctrl, model = create_compressed_model(model, config)
    model = parallel(model)
    compression_ctrl.distributed()
    loop = create_accuracy_aware_training_loop(config, compression_ctrl, uncompressed_accuracy)
    functions = (training.train_epoch, training.validate, training.configure_optimizers)
    model = loop.run(model, *functions, log_dir=given.log_dir, resume=given.resume)

    if RANK == 0:
        print(compression_ctrl.statistics(), loop.statistics, loop.verdict, sep="\n\n")
        if given.export:
            print(compression_ctrl.export_model(given.export))


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    logging.getLogger("autocompress").setLevel(logging.INFO if RANK == 0 else logging.ERROR)
    if CUDA:
        torch.cuda.set_device(DEVICE)
    if TOGETHER:
        distributed.init_process_group("nccl" if CUDA else "gloo")
    main(options())
    if TOGETHER:
        distributed.destroy_process_group()
