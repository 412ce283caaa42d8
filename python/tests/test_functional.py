"""Each loss beside PyTorch's, or beside its definition in PyTorch where there is none: values, gradients, options, bad input.

On the CPU, or with FUSED_LOSS_TEST_DEVICE=cuda on a GPU."""

import os
import unittest

import torch
import torch.nn.functional as P

import fused_loss
import fused_loss.functional as F

CPU = torch.device("cpu")
DEVICE = torch.device(os.environ.get("FUSED_LOSS_TEST_DEVICE", "cpu"))
torch.set_default_device(DEVICE)
# One rounding to the type, and what PyTorch's own arithmetic in it adds; relative to the largest gradient.
TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}


def rand(*shape, seed=0, dtype=torch.float32):
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn(*shape, generator=generator, device="cpu").to(DEVICE, dtype)


def classes(count, *shape, seed=0):
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randint(0, count, shape, generator=generator, device="cpu").to(DEVICE)


def run(loss, tensors, upstream=0.7):
    """Value, and gradients of those tensors that are floating."""
    leaves = [t.detach().clone().requires_grad_(t.is_floating_point()) for t in tensors]
    value = loss(*leaves)
    (value * upstream).sum().backward()
    return value.detach(), [leaf.grad for leaf in leaves if leaf.is_floating_point()]


class Compare(unittest.TestCase):
    def same(self, ours, theirs, *tensors, dtypes=tuple(TOLERANCE), both=True):
        """`ours(*tensors)` against `theirs` in float64; gradients for the input, and with `both` for the target."""
        for dtype in dtypes:
            given = [t.to(dtype) if t.is_floating_point() else t for t in tensors]
            wide = [t.double() if t.is_floating_point() else t for t in given]
            value, grads = run(lambda x, *t: ours(x, *(t if both else [u.detach() for u in t])), given)
            expected, slopes = run(lambda x, *t: theirs(x, *(t if both else [u.detach() for u in t])), wide)
            self.assertEqual(value.dtype, torch.float32)
            self.assertEqual(value.shape, expected.shape)
            torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)
            for grad, slope in zip(grads, slopes):
                if slope is None:
                    self.assertIsNone(grad)
                    continue
                self.assertEqual(grad.dtype, dtype)
                scale = slope.abs().max().item() or 1.0
                torch.testing.assert_close(grad.double() / scale, slope / scale, rtol=0, atol=TOLERANCE[dtype])

    def reductions(self, ours, theirs, *tensors, names=("mean", "sum", "none"), **more):
        for reduction in names:
            with self.subTest(reduction=reduction):
                self.same(
                    lambda *t: ours(*t, reduction=reduction), lambda *t: theirs(*t, reduction=reduction), *tensors, **more
                )


class Elementwise(Compare):
    x, t, w = rand(7, 5, seed=1), rand(7, 5, seed=2), rand(7, 5, seed=3).abs()
    q = torch.sigmoid(rand(7, 5, seed=4))

    def test_regression(self):
        self.reductions(F.mse_loss, P.mse_loss, self.x, self.t)
        self.reductions(F.l1_loss, P.l1_loss, self.x, self.t)
        for delta in (0.3, 2.0):
            both = lambda f: lambda x, t, reduction: f(x, t, reduction=reduction, delta=delta)
            self.reductions(both(F.huber_loss), both(P.huber_loss), self.x, self.t)
        for beta in (0.0, 0.7):
            both = lambda f: lambda x, t, reduction: f(x, t, reduction=reduction, beta=beta)
            self.reductions(both(F.smooth_l1_loss), both(P.smooth_l1_loss), self.x, self.t)

    def test_weights(self):
        ours = lambda x, t: F.mse_loss(x, t, weight=self.w)
        self.same(ours, lambda x, t: ((x - t) ** 2 * self.w).sum() / self.w.double().sum(), self.x, self.t)
        w = self.w[:1]
        ours = lambda x, t: F.binary_cross_entropy_with_logits(x, t, w)
        theirs = lambda x, t: P.binary_cross_entropy_with_logits(x, t, w.double())
        self.same(ours, theirs, self.x, self.q, both=False)

    def test_binary_cross_entropy(self):
        p = torch.sigmoid(self.x) * 0.9 + 0.05
        self.reductions(F.binary_cross_entropy, P.binary_cross_entropy, p, self.q, both=False)
        logits = (F.binary_cross_entropy_with_logits, P.binary_cross_entropy_with_logits)
        self.reductions(*logits, self.x, self.q)
        for weight in (torch.tensor([0.5, 1.0, 2.0, 3.0, 4.0]), torch.tensor(3.0)):
            wide = weight.double()
            both = lambda f, w: lambda x, t, reduction: f(x, t, reduction=reduction, pos_weight=w)
            self.reductions(both(logits[0], weight), both(logits[1], wide), self.x, self.q, both=False)

    def test_kl_div(self):
        logs = self.x.log_softmax(-1)
        names = ("mean", "sum", "none", "batchmean")
        self.reductions(F.kl_div, P.kl_div, logs, self.q, names=names)
        both = lambda f: lambda x, t, reduction: f(x, t, reduction=reduction, log_target=True)
        self.reductions(both(F.kl_div), both(P.kl_div), logs, self.t.log_softmax(-1), names=names)

    def test_definitions(self):
        hard = (self.t > 0).float()
        signs = hard * 2 - 1
        self.same(F.hinge_loss, lambda x, t: (1 - t * x).clamp(min=0).mean(), self.x, signs, both=False)
        zero_one = lambda x, t: F.squared_hinge_loss(x, t, labels="zero_one")
        self.same(zero_one, lambda x, t: ((1 - (2 * t - 1) * x).clamp(min=0) ** 2).mean(), self.x, hard, both=False)

        def focal(x, t):
            p = torch.sigmoid(x)
            ce = P.binary_cross_entropy_with_logits(x, t, reduction="none")
            pt = p * t + (1 - p) * (1 - t)
            return (0.25 * t + 0.75 * (1 - t)) * ce * (1 - pt) ** 2

        self.same(F.sigmoid_focal_loss, focal, self.x, hard, both=False)
        probs = lambda p, t: F.kl_div_probs(p, t, reduction="sum")
        self.same(probs, lambda p, t: (t * (t / p).log()).sum(), torch.sigmoid(self.x), self.q, both=False)


class Classes(Compare):
    x = rand(6, 5, seed=5)
    index = torch.tensor([0, 4, 2, -100, 1, 3])
    images, masks = rand(2, 3, 4, 5, seed=6), classes(3, 2, 4, 5, seed=7)
    soft = torch.softmax(rand(6, 5, seed=8), 1)
    w = torch.tensor([0.5, 1.0, 2.0, 3.0, 4.0])

    def test_cross_entropy(self):
        for options in ({}, {"label_smoothing": 0.1}, {"weight": self.w}, {"weight": self.w, "label_smoothing": 0.2}):
            wide = {k: v.double() if isinstance(v, torch.Tensor) else v for k, v in options.items()}
            ours = lambda x, t, reduction: F.cross_entropy(x, t, reduction=reduction, **options)
            theirs = lambda x, t, reduction: P.cross_entropy(x, t, reduction=reduction, **wide)
            self.reductions(ours, theirs, self.x, self.index)
            self.reductions(ours, theirs, self.x, self.soft)
        self.reductions(F.cross_entropy, P.cross_entropy, self.images, self.masks)
        self.same(F.cross_entropy, P.cross_entropy, self.x[0], torch.tensor(3))
        both = lambda f: lambda x, t: f(x, t, ignore_index=2)
        self.same(both(F.cross_entropy), both(P.cross_entropy), self.x[:3], torch.tensor([0, 2, 1]))

    def test_index_types(self):
        for dtype in (torch.int64, torch.int32, torch.uint8):
            value = F.cross_entropy(self.x[:3], self.index[:3].to(dtype))
            torch.testing.assert_close(value, P.cross_entropy(self.x[:3], self.index[:3]))

    def test_options_of_our_own(self):
        def theirs(x, t):
            z = 3.0 * torch.tanh(x / 3.0)
            return P.cross_entropy(z, t, reduction="none") + 0.01 * torch.logsumexp(z, 1) ** 2

        ours = lambda x, t: F.cross_entropy(x, t, reduction="none", z_loss=0.01, softcap=3.0)
        self.same(ours, theirs, self.x[:3], self.index[:3])

    def test_others_of_pytorch(self):
        logs, known = self.x.log_softmax(1), torch.tensor([0, 4, 2, 2, 1, 3])
        self.reductions(F.nll_loss, P.nll_loss, logs, self.index)
        self.reductions(F.nll_loss, P.nll_loss, self.images.log_softmax(1), self.masks)
        for p in (1, 2):
            both = lambda f: lambda x, t, reduction: f(x, t, p=p, margin=0.5, reduction=reduction)
            self.reductions(both(F.multi_margin_loss), both(P.multi_margin_loss), self.x, known)

    def test_definitions(self):
        known = self.index[[0, 1, 2, 4, 5]]
        x = self.x[[0, 1, 2, 4, 5]]

        def focal(x, t):
            log = x.log_softmax(1).gather(1, t[:, None])[:, 0]
            return -((1 - log.exp()) ** 2 * log).mean()

        self.same(F.softmax_focal_loss, focal, x, known)
        teacher = rand(6, 5, seed=9)
        ours = lambda x, t: F.distillation_loss(x, t, temperature=2.0)
        theirs = lambda x, t: 4 * P.kl_div((x / 2).log_softmax(1), (t / 2).softmax(1), reduction="batchmean")
        self.same(ours, theirs, self.x, teacher, both=False)
        hard = P.one_hot(known, 5).float()
        wrong = lambda x, t: (1 - (x * t).sum(1) + (x * (1 - t)).amax(1)).clamp(min=0).mean()
        self.same(F.categorical_hinge_loss, wrong, x, hard, both=False)
        p = torch.softmax(x, 1)
        ours = lambda p, t: F.cross_entropy_probs(p, t)
        self.same(ours, lambda p, t: P.nll_loss((p / p.sum(1, keepdim=True)).log(), t), p, known)


class Beyond(Compare):
    """Losses beyond the ten families."""

    x, t, y = rand(7, 5, seed=21), rand(7, 5, seed=22), rand(7, 5, seed=23)

    def test_likelihoods(self):
        for full in (False, True):
            for log_input in (False, True):
                both = lambda f: lambda x, t, reduction: f(x, t, log_input, full, reduction=reduction)
                counts = torch.floor(self.t.abs() * 3)
                rate = self.x if log_input else self.x.abs() + 0.1
                self.reductions(both(F.poisson_nll_loss), both(P.poisson_nll_loss), rate, counts, both=False)
            both = lambda f: lambda x, t, v, reduction: f(x, t, v, full, 0.1, reduction=reduction)
            self.reductions(both(F.gaussian_nll_loss), both(P.gaussian_nll_loss), self.x, self.t, self.y**2 + 0.2)

    def test_margins(self):
        signs = torch.sign(self.y)
        self.reductions(F.soft_margin_loss, P.soft_margin_loss, self.x, signs, both=False)
        for margin in (0.0, 0.5):
            # PyTorch has a gradient for the labels, in which nobody is interested.
            both = lambda f: lambda x, t, y, reduction: f(x, t, y.detach(), margin, reduction=reduction)
            self.reductions(both(F.margin_ranking_loss), both(P.margin_ranking_loss), self.x, self.t, signs)

    def test_embeddings(self):
        label = torch.tensor([1, -1, 1, -1, -1, 1, 1.0])
        both = lambda f: lambda x, t, y, reduction: f(x, t, y.detach(), 0.2, reduction=reduction)
        self.reductions(both(F.cosine_embedding_loss), both(P.cosine_embedding_loss), self.x, self.t, label)
        whole = lambda x, t: F.cosine_embedding_loss(x, t, label.long(), 0.2)
        self.same(whole, lambda x, t: P.cosine_embedding_loss(x, t, label.double(), 0.2), self.x, self.t)
        for swap in (False, True):
            both = lambda f: lambda a, p, n, reduction: f(a, p, n, 0.5, swap=swap, reduction=reduction)
            self.reductions(both(F.triplet_margin_loss), both(P.triplet_margin_loss), self.x, self.t, self.y)
        with self.assertRaisesRegex(ValueError, "p: expected 2, got 1"):
            F.triplet_margin_loss(self.x, self.t, self.y, p=1)
        with self.assertRaisesRegex(ValueError, r"target: expected shape \(7,\), got \(5,\)"):
            F.cosine_embedding_loss(self.x, self.t, label[:5])

    def test_definitions(self):
        self.same(F.log_cosh_loss, lambda x, t: torch.log(torch.cosh(x - t)).mean(), self.x, self.t)
        quantile = lambda x, t: torch.maximum(0.9 * (t - x), -0.1 * (t - x)).mean()
        self.same(lambda x, t: F.quantile_loss(x, t, quantile=0.9), quantile, self.x, self.t)
        dpo = lambda x, t, r: -(0.9 * P.logsigmoid(0.5 * (x - t - r)) + 0.1 * P.logsigmoid(-0.5 * (x - t - r))).mean()
        ours = lambda x, t, r: F.dpo_loss(x, t, r, beta=0.5, label_smoothing=0.1)
        self.same(ours, lambda x, t, r: dpo(x, t, r.detach()), self.x, self.t, self.y)

        def jsd(x, t):
            p, q = (z.softmax(1) for z in (x, t))
            m = 0.5 * (p + q)
            return 0.5 * ((q * (q / m).log()).sum(1) + (p * (p / m).log()).sum(1)).mean()

        self.same(F.jsd_loss, jsd, self.x, self.t)

    def test_cross_entropy_beside_a_teacher(self):
        index = torch.tensor([0, 4, 2, -100, 1, 3, 3])

        def theirs(x, y):
            hard = P.cross_entropy(x, index, reduction="none", label_smoothing=0.1) + 0.01 * torch.logsumexp(x, 1) ** 2
            soft = 4 * P.kl_div((x / 2).log_softmax(1), (y / 2).softmax(1), reduction="none").sum(1)
            valid = index != -100
            return torch.where(valid, 0.3 * hard + 0.7 * soft, 0.0).sum() / valid.sum()

        options = {"weights": (0.3, 0.7), "label_smoothing": 0.1, "z_loss": 0.01, "temperature": 2.0}
        ours = lambda x, y: F.cross_entropy_distillation(x, index, y, **options)
        self.same(ours, lambda x, y: theirs(x, y.detach()), self.x, self.y)

    def test_boxes(self):
        corner, size = rand(6, 2, seed=24), rand(6, 2, seed=25).abs() + 0.5
        first = torch.cat([corner, corner + size], 1)
        second = first + 0.3 * rand(6, 4, seed=26).abs() * torch.tensor([-1, -1, 1, 1])

        def parts(a, b):
            low, high = torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])
            area = lambda x: (x[:, 2:] - x[:, :2]).prod(1)
            overlap = (high - low).clamp(min=0).prod(1)
            union = area(a) + area(b) - overlap
            hull = torch.cat([torch.minimum(a[:, :2], b[:, :2]), torch.maximum(a[:, 2:], b[:, 2:])], 1)
            return overlap / (union + 1e-7), union, hull, area

        def giou(a, b):
            iou, union, hull, area = parts(a, b)
            return 1 - iou + (area(hull) - union) / (area(hull) + 1e-7)

        def diou(a, b):
            iou, _, hull, _ = parts(a, b)
            gap = ((a[:, :2] + a[:, 2:] - b[:, :2] - b[:, 2:]) / 2).square().sum(1)
            return 1 - iou + gap / ((hull[:, 2:] - hull[:, :2]).square().sum(1) + 1e-7)

        self.same(F.box_iou_loss, lambda a, b: 1 - parts(a, b)[0], first, second, dtypes=(torch.float32,))
        self.same(F.generalized_box_iou_loss, giou, first, second, dtypes=(torch.float32,))
        self.same(F.distance_box_iou_loss, diou, first, second, dtypes=(torch.float32,))
        # Of equal proportions nothing is added.
        complete = F.complete_box_iou_loss(first, first + 0.25)
        torch.testing.assert_close(complete, F.distance_box_iou_loss(first, first + 0.25))
        with self.assertRaisesRegex(ValueError, r"boxes1: expected \(..., 4\), got shape \(7, 5\)"):
            F.box_iou_loss(self.x, self.t)

    def test_generalised_dice(self):
        x, mask = rand(2, 3, 4, 5, seed=10), (rand(2, 3, 4, 5, seed=11) > 0).float()

        def theirs(x, t):
            p = torch.softmax(x, 1)
            i, p, m = (p * t).sum((2, 3)), p.sum((2, 3)), t.sum((2, 3))
            w = 1 / m
            return (1 - (2 * (w * i).sum(1) + 0.5) / ((w * (p + m)).sum(1) + 0.5)).mean()

        options = {"activation": "softmax", "w_type": "simple", "smooth_nr": 0.5, "smooth_dr": 0.5}
        self.same(lambda x, t: F.generalized_dice_loss(x, t, **options), theirs, x, mask, both=False)
        ours = F.generalized_dice_loss(x, mask, reduction="none", activation="softmax")
        self.assertEqual(ours.shape, (2,))

    def test_lovasz(self):
        x, mask = rand(2, 3, 4, 5, seed=10), (rand(2, 3, 4, 5, seed=11) > 0).float()
        index = classes(3, 2, 4, 5, seed=12)
        index[0, 0] = 255

        # Berman's, https://github.com/bermanmaxim/LovaszSoftmax, algorithm 1.
        def of_errors(errors, foreground):
            errors, order = torch.sort(errors, descending=True, stable=True)
            gt = foreground[order].to(errors.dtype)
            jaccard = 1 - (gt.sum() - gt.cumsum(0)) / (gt.sum() + (1 - gt).cumsum(0))
            jaccard[1:] = jaccard[1:] - jaccard[:-1].clone()
            return errors.relu() @ jaccard

        def hinge(x, t, batch):
            regions = [a.transpose(0, 1).flatten(1) if batch else a.flatten(0, 1).flatten(1) for a in (x, t)]
            return torch.stack([of_errors(1 - x * (2 * t - 1), t) for x, t in zip(*regions)]).mean()

        def softmax(x, t, batch, every):
            values = []
            for x, t in [(x, t)] if batch else zip(x[:, None], t[:, None]):
                p, counts = x.softmax(1).transpose(0, 1).flatten(1), t.flatten() != 255
                p, t = p[:, counts], t.flatten()[counts]
                of_classes = [((t == c).float(), p[c]) for c in range(3) if every or (t == c).any()]
                values.append(torch.stack([of_errors((fg - p).abs(), fg) for fg, p in of_classes]).mean())
            return torch.stack(values).mean()

        for batch in (False, True):
            ours = lambda x, t: F.lovasz_hinge_loss(x, t, batch=batch)
            self.same(ours, lambda x, t: hinge(x, t, batch), x, mask, both=False)
            for every in (False, True):
                ours = lambda x: F.lovasz_softmax_loss(x, index, batch=batch, all_classes=every, ignore_index=255)
                self.same(ours, lambda x: softmax(x, index, batch, every), x)
        self.assertEqual(F.lovasz_hinge_loss(x, mask, reduction="none").shape, (2, 3))
        self.assertEqual(F.lovasz_softmax_loss(x, index, ignore_index=255, reduction="none").shape, (3,))
        with self.assertRaisesRegex(TypeError, r"target: expected class indices \(samples, ...\), got torch.float32"):
            F.lovasz_softmax_loss(x, mask)
        with self.assertRaisesRegex(TypeError, "target: expected masks of the input's shape and type, got torch.int64"):
            F.lovasz_hinge_loss(x, index)

    def test_third_tensors_are_like_the_first(self):
        with self.assertRaisesRegex(ValueError, r"var: expected shape \(7, 5\), got \(7, 4\)"):
            F.gaussian_nll_loss(self.x, self.t, self.y[:, :4])
        with self.assertRaisesRegex(TypeError, "reference: expected float32, float16 or bfloat16, got torch.float64"):
            F.dpo_loss(self.x, self.t, self.y.double())
        whole = F.margin_ranking_loss(self.x, self.t, torch.sign(self.y).long())
        torch.testing.assert_close(whole, P.margin_ranking_loss(self.x, self.t, torch.sign(self.y)))
        wide = F.gaussian_nll_loss(self.x.bfloat16(), self.t, self.y**2 + 1)
        torch.testing.assert_close(wide, P.gaussian_nll_loss(self.x.bfloat16().float(), self.t, self.y**2 + 1))


class Regions(Compare):
    def test_dice_and_tversky(self):
        x, mask = rand(2, 3, 4, 5, seed=10), (rand(2, 3, 4, 5, seed=11) > 0).float()

        def sums(x, t, activation):
            p = torch.sigmoid(x) if activation == "sigmoid" else torch.softmax(x, 1)
            return (p * t).sum((2, 3)), p.sum((2, 3)), t.sum((2, 3))

        for activation in ("sigmoid", "softmax"):

            def dice(x, t):
                i, p, m = sums(x, t, activation)
                return (1 - (2 * i + 1) / (p + m + 1)).mean()

            def tversky(x, t):
                i, p, m = sums(x, t, activation)
                return (1 - (i + 1) / (i + 0.3 * (p - i) + 0.8 * (m - i) + 1)).mean()

            self.same(lambda x, t: F.dice_loss(x, t, activation=activation), dice, x, mask, both=False)
            ours = lambda x, t: F.tversky_loss(x, t, alpha=0.3, beta=0.8, activation=activation)
            self.same(ours, tversky, x, mask, both=False)
            ours = lambda x, t: F.tversky_loss(x, t, alpha=0.3, beta=0.8, focal=2.0, activation=activation, reduction="none")
            each = lambda x, t: F.tversky_loss(x, t, alpha=0.3, beta=0.8, activation=activation, reduction="none") ** 2
            torch.testing.assert_close(ours(x, mask), each(x, mask))
        index = classes(3, 2, 4, 5, seed=12)
        hot = P.one_hot(index, 3).permute(0, 3, 1, 2).float()
        ours = lambda t: F.dice_loss(x, t, activation="softmax", include_background=False, batch=True, reduction="none")
        self.assertEqual(ours(index).shape, (2,))
        torch.testing.assert_close(ours(index), ours(hot))


class Sums(Compare):
    x, t, q = rand(7, 5, seed=41), rand(7, 5, seed=42), torch.sigmoid(rand(7, 5, seed=43))

    def terms(self, value, own):
        """The terms that came with a value are those losses by themselves."""
        _, terms = value
        self.assertEqual(list(terms), list(own))
        for name, term in terms.items():
            self.assertFalse(term.requires_grad)
            torch.testing.assert_close(term, own[name])

    def test_elements(self):
        ours = lambda x, t, **options: F.combined_loss(x, t, {"mse": 0.7, "huber": (0.5, {"delta": 0.3})}, **options)
        theirs = lambda x, t, **options: 0.7 * P.mse_loss(x, t, **options) + 0.5 * P.huber_loss(x, t, delta=0.3, **options)
        self.reductions(ours, theirs, self.x, self.t)
        own = {"mse": P.mse_loss(self.x, self.t), "huber": P.huber_loss(self.x, self.t, delta=0.3)}
        self.terms(ours(self.x.clone().requires_grad_(), self.t, return_terms=True), own)
        weight, positive = rand(5, seed=44).abs(), rand(5, seed=45).abs()
        terms = {"bce_with_logits": 1.0, "sigmoid_focal": (2.0, {"alpha": -1.0, "gamma": 1.5})}

        def focal(x, t):
            p, cost = torch.sigmoid(x), P.binary_cross_entropy_with_logits(x, t, reduction="none")
            return cost * (1 - p * t - (1 - p) * (1 - t)) ** 1.5

        def theirs(x, t):
            cost = P.binary_cross_entropy_with_logits(x, t, pos_weight=positive.to(x.dtype), reduction="none")
            return (weight * (cost + 2 * focal(x, t))).mean()

        ours = lambda x, t: F.combined_loss(x, t, terms, weight=weight, pos_weight=positive)
        self.same(ours, theirs, self.x, self.q, both=False)

    def test_report(self):
        x, index = rand(4, 6, 5, seed=50), classes(6, 4, 5, seed=51)
        index[0, 1] = -100
        for x in (x.requires_grad_(), x.detach().bfloat16()):
            names = ("log_prob", "entropy", "lse", "hit", "argmax")
            loss, got = F.cross_entropy(x, index, report=names)
            self.assertEqual(tuple(got), names)
            torch.testing.assert_close(loss, F.cross_entropy(x, index))
            rows = x.detach().float().movedim(1, -1)
            of = torch.distributions.Categorical(logits=rows)
            there = index != -100
            want = {
                "log_prob": of.log_prob(index.clamp(min=0)),
                "entropy": of.entropy(),
                "lse": rows.logsumexp(-1),
                "hit": (rows.argmax(-1) == index).float(),
            }
            for name, want in want.items():
                torch.testing.assert_close(got[name], torch.where(there, want, 0.0))
                self.assertFalse(got[name].requires_grad)
            self.assertTrue(torch.equal(got["argmax"], torch.where(there, rows.argmax(-1), -1)))
        with self.assertRaisesRegex(ValueError, "report"):
            F.cross_entropy(x, index, report=("entrpy",))
        with self.assertRaisesRegex(Exception, "log-probability"):
            F.cross_entropy(x, torch.softmax(x.float(), 1).to(x.dtype), report=("log_prob",))

    def test_counts(self):
        counts = self.q.mul(4).round()
        terms = {"poisson_nll": (1.0, {"full": 1}), "quantile": (0.5, {"quantile": 0.9}), "log_cosh": 0.25, "soft_margin": 0.125}

        def theirs(x, t):
            poisson = P.poisson_nll_loss(x, t, full=True)
            quantile = torch.maximum(0.9 * (t - x), -0.1 * (t - x)).mean()
            return poisson + 0.5 * quantile + 0.25 * torch.log(torch.cosh(x - t)).mean() + 0.125 * P.soft_margin_loss(x, t)

        self.same(lambda x, t: F.combined_loss(x, t, terms), theirs, self.x, counts, both=False)

    def test_dice_and_another(self):
        x, index = rand(2, 3, 4, 5, seed=46), classes(3, 2, 4, 5, seed=47)
        hot = P.one_hot(index, 3).permute(0, 3, 1, 2)

        def dice(p, t):
            i, p, m = ((y).sum((2, 3)) for y in (p * t, p, t))
            return (1 - (2 * i + 1e-5) / (p + m + 1e-5)).mean()

        softmax = lambda x: 0.5 * dice(x.softmax(1), hot.to(x.dtype)) + 2 * P.cross_entropy(x, index, label_smoothing=0.1)
        ours = lambda x, **options: F.dice_ce_loss(
            x, index, lambda_dice=0.5, lambda_ce=2.0, label_smoothing=0.1, **options
        )
        self.same(ours, softmax, x)
        own = {
            "dice": F.dice_loss(x, index, activation="softmax", smooth_nr=1e-5, smooth_dr=1e-5),
            "cross_entropy": P.cross_entropy(x, index, label_smoothing=0.1),
        }
        self.terms(ours(x, return_terms=True), own)
        mask = (rand(2, 3, 4, 5, seed=48) > 0).float()

        def sigmoid(x, t):
            p, cost = torch.sigmoid(x), P.binary_cross_entropy_with_logits(x, t, reduction="none")
            return dice(p, t) + 0.5 * (cost * (1 - p * t - (1 - p) * (1 - t)) ** 2).mean()

        self.same(lambda x, t: F.dice_focal_loss(x, t, lambda_focal=0.5), sigmoid, x, mask, both=False)
        own = {
            "dice": F.dice_loss(x, mask, activation="sigmoid", smooth_nr=1e-5, smooth_dr=1e-5),
            "sigmoid_focal": F.sigmoid_focal_loss(x, mask, alpha=0.25, reduction="mean"),
        }
        self.terms(F.dice_focal_loss(x, mask, alpha=0.25, return_terms=True), own)

        def softmax(x):
            cost = P.cross_entropy(x, index, reduction="none")
            return dice(x.softmax(1), hot.to(x.dtype)) + 0.5 * ((1 - torch.exp(-cost)) ** 2 * cost).mean()

        self.same(lambda x: F.dice_focal_loss(x, index, lambda_focal=0.5, activation="softmax"), softmax, x)
        own = {
            "dice": F.dice_loss(x, index, activation="softmax", smooth_nr=1e-5, smooth_dr=1e-5),
            "softmax_focal": F.softmax_focal_loss(x, index, reduction="mean"),
        }
        self.terms(F.dice_focal_loss(x, index, activation="softmax", return_terms=True), own)

    def test_a_teacher(self):
        index = classes(5, 7, seed=49)
        value, terms = F.cross_entropy_distillation(self.x, index, self.t, weights=(0.5, 2.0), z_loss=0.1, return_terms=True)
        self.assertEqual(list(terms), ["cross_entropy", "z_loss", "distillation"])
        parts = 0.5 * (terms["cross_entropy"] + terms["z_loss"]) + 2 * terms["distillation"]
        torch.testing.assert_close(value, parts)
        torch.testing.assert_close(terms["cross_entropy"], P.cross_entropy(self.x, index))
        torch.testing.assert_close(terms["z_loss"], 0.1 * torch.logsumexp(self.x, 1).square().mean())

    def test_what_is_refused(self):
        x, t = self.x, self.t
        with self.assertRaisesRegex(ValueError, "terms: expected some of mse, mae, huber, .*, got 'dice'"):
            F.combined_loss(x, t, {"mse": 1.0, "dice": 1.0})
        with self.assertRaisesRegex(ValueError, "count: expected 1 to 4 terms, got 0"):
            F.combined_loss(x, t, {})
        with self.assertRaisesRegex(AttributeError, "delte"):
            F.combined_loss(x, t, {"huber": (1.0, {"delte": 1.0})})
        with self.assertRaisesRegex(ValueError, "reduction: expected mean or sum, got 'none'"):
            F.dice_ce_loss(rand(2, 3, 4), classes(3, 2, 4), reduction="none")
        with self.assertRaisesRegex(ValueError, "alpha: expected None with a softmax"):
            F.dice_focal_loss(rand(2, 3, 4), classes(3, 2, 4), activation="softmax", alpha=0.25)
        with self.assertRaisesRegex(fused_loss.FusedLossError, "a target of this kind is not supported"):
            F.dice_focal_loss(rand(2, 3, 4), rand(2, 3, 4), activation="softmax")
        with self.assertRaisesRegex(fused_loss.FusedLossError, "without a reduction"):
            F.combined_loss(x, t, {"mse": 1.0}, reduction="none", return_terms=True)


class Adversarial(Compare):
    real, fake = rand(7, seed=13), rand(7, seed=14)

    def test_terms(self):
        terms = {
            ("non_saturating", "real"): lambda x: P.softplus(-x),
            ("non_saturating", "fake"): P.softplus,
            ("non_saturating", "generator"): lambda x: P.softplus(-x),
            ("minimax", "generator"): lambda x: -P.softplus(x),
            ("least_squares", "real"): lambda x: (x - 1) ** 2,
            ("wasserstein", "fake"): lambda x: x,
            ("hinge", "fake"): lambda x: (1 + x).clamp(min=0),
        }
        for (mode, term), theirs in terms.items():
            self.same(lambda x: F.gan_loss(x, term, mode=mode), lambda x: theirs(x).mean(), self.real)

    def test_relativistic(self):
        self.same(F.relativistic_pair_loss, lambda r, f: P.softplus(f - r).mean(), self.real, self.fake)
        average = lambda r, f: (P.softplus(f.mean() - r).mean() + P.softplus(f - r.mean()).mean()) / 2
        self.same(F.relativistic_average_loss, average, self.real, self.fake[:4])

    def test_gradient_penalty(self):
        grads = rand(3, 2, 4, seed=15)
        theirs = lambda g: 10 * ((g.flatten(1).norm(dim=1) - 1) ** 2).mean()
        self.same(F.gradient_penalty, theirs, grads)
        ours = lambda g: F.gradient_penalty(g, kind="r1", weight=4.0)
        self.same(ours, lambda g: 2 * (g.flatten(1) ** 2).sum(1).mean(), grads)


class Autograd(unittest.TestCase):
    x, t = rand(40, 30, seed=1), rand(40, 30, seed=2)

    def test_upstream_of_one_twice_and_a_graph_above(self):
        x = self.x.clone().requires_grad_()
        loss = F.mse_loss(torch.tanh(x), self.t)
        loss.backward(retain_graph=True)
        first = x.grad.clone()
        loss.backward()
        torch.testing.assert_close(x.grad, 2 * first)
        y = self.x.clone().requires_grad_()
        P.mse_loss(torch.tanh(y), self.t).backward()
        torch.testing.assert_close(first, y.grad)

    def test_float16_gradients_do_not_underflow_before_the_loss_scale(self):
        n = 1 << 20
        x = torch.full((n,), 1.5, dtype=torch.float16, requires_grad=True)
        (F.mse_loss(x, torch.zeros(n, dtype=torch.float16)) * 65536.0).backward()
        self.assertEqual(x.grad[0].item(), 3.0 * 65536 / n)

    def test_no_gradient_where_none_is_needed(self):
        self.assertFalse(F.mse_loss(self.x, self.t).requires_grad)
        x = self.x.clone().requires_grad_()
        with torch.no_grad():
            self.assertFalse(F.mse_loss(x, self.t).requires_grad)

    def test_gradients_against_differences(self):
        x = rand(3, 4, seed=3).requires_grad_()
        index = torch.tensor([0, 3, 1])
        F.cross_entropy(x, index, reduction="sum").backward()
        for i in range(3):
            for j in range(4):
                with torch.no_grad():
                    up, down = x.double(), x.double()
                    up[i, j] += 1e-4
                    down[i, j] -= 1e-4
                    slope = (P.cross_entropy(up, index, reduction="sum") - P.cross_entropy(down, index, reduction="sum")) / 2e-4
                self.assertAlmostEqual(x.grad[i, j].item(), slope.item(), places=5)

    def test_views_and_layouts(self):
        images = rand(2, 3, 4, 5, seed=4).to(memory_format=torch.channels_last)
        index = torch.randint(0, 3, (2, 4, 5))
        torch.testing.assert_close(F.cross_entropy(images, index), P.cross_entropy(images, index))
        x, t = self.x.T[3:, 1::2], self.t.T[3:, 1::2]
        torch.testing.assert_close(F.mse_loss(x, t), P.mse_loss(x, t))

    def test_autocast(self):
        x, w = rand(8, 6, seed=5), rand(6, 4, seed=6).requires_grad_()
        index, dense = torch.randint(0, 4, (8,)), rand(8, 4, seed=7)
        for ours, theirs, target in ((F.cross_entropy, P.cross_entropy, index), (F.mse_loss, P.mse_loss, dense)):
            grads = []
            for loss in (ours, theirs):
                w.grad = None
                with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
                    value = loss(x @ w, target)
                self.assertEqual(value.dtype, torch.float32)
                value.backward()
                grads.append(w.grad.clone())
            torch.testing.assert_close(*grads, rtol=2e-2, atol=2e-3)

    def test_numbers_at_the_edges(self):
        # Where PyTorch gives what it should, which for binary cross-entropy of an infinite logit it does not.
        for dtype, large in ((torch.float32, 3.3e38), (torch.float16, 65504.0), (torch.bfloat16, 3.3e38)):
            inf, nan = float("inf"), float("nan")
            x = torch.tensor([inf, nan, -large, 1e-40, -inf, large, -0.0, 6e-8], dtype=dtype)
            t = torch.tensor([0, 1, 1, 0, 1, 0, 0, 1], dtype=dtype)
            logits = torch.tensor([[0, -inf, 1], [nan, 0, 1], [-large, large, 0]], dtype=dtype)
            calls = [(name, x, t) for name in ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")]
            for name, x, t in [*calls, ("cross_entropy", logits, torch.tensor([1, 0, 1]))]:
                ours = getattr(F, name)(x, t, reduction="none")
                theirs = getattr(P, name)(x.float(), t.float() if t.is_floating_point() else t, reduction="none")
                torch.testing.assert_close(ours.float(), theirs.to(ours.dtype).float(), equal_nan=True)

    def test_empty(self):
        self.assertTrue(F.mse_loss(torch.empty(0), torch.empty(0)).isnan())
        self.assertEqual(F.mse_loss(torch.empty(0), torch.empty(0), reduction="sum"), 0)


class BadInput(unittest.TestCase):
    def refuse(self, error, says, call):
        with self.assertRaisesRegex(error, says):
            call()

    def test_each_is_told(self):
        x, t, index = rand(4, 3), rand(4, 3), torch.tensor([0, 1, 2, 0])
        self.refuse(TypeError, "expected float32, float16 or bfloat16, got torch.float64", lambda: F.mse_loss(x.double(), t))
        self.refuse(TypeError, "input: expected a tensor, got list", lambda: F.mse_loss([1.0], t))
        self.refuse(ValueError, r"target: expected shape \(4, 3\), got \(3, 4\)", lambda: F.mse_loss(x, t.T))
        self.refuse(ValueError, "reduction: expected one of", lambda: F.mse_loss(x, t, reduction="max"))
        self.refuse(ValueError, "delta: expected", lambda: F.huber_loss(x, t, delta=-1.0))
        self.refuse(ValueError, r"target: expected shape \(4,\), got \(3,\)", lambda: F.cross_entropy(x, index[:3]))
        if DEVICE == CPU:
            self.refuse(IndexError, "got 3 in row 1", lambda: F.cross_entropy(x, torch.tensor([0, 3, 2, 0])))
        self.refuse(TypeError, "expected class indices", lambda: F.nll_loss(x, t))
        self.refuse(TypeError, "expected class indices", lambda: F.cross_entropy(x, index.bool()))
        self.refuse(ValueError, r"weight: expected shape \(3,\)", lambda: F.cross_entropy(x, index, torch.ones(4)))
        self.refuse(ValueError, "labels: expected one of", lambda: F.hinge_loss(x, t, labels="both"))
        self.refuse(ValueError, f"expected a tensor on {x.device}, got one on meta", lambda: F.mse_loss(x, t.to("meta")))
        self.refuse(TypeError, "expected tensors on the CPU or a CUDA", lambda: F.mse_loss(x.to("meta"), t.to("meta")))
        self.refuse(RuntimeError, "differentiate twice|does not require grad", self.twice)

    def twice(self):
        x = rand(3).requires_grad_()
        (grad,) = torch.autograd.grad(F.mse_loss(x, torch.zeros(3)), x, create_graph=True)
        grad.sum().backward()


@unittest.skipUnless(DEVICE.type == "cuda", "FUSED_LOSS_TEST_DEVICE is not cuda")
class Cuda(unittest.TestCase):
    x, t, index = rand(64, 100, seed=1), rand(64, 100, seed=2), classes(100, 64, seed=3)

    def test_a_graph_is_captured_and_replayed_on_a_stream_of_its_own(self):
        x = self.x.clone().requires_grad_()
        graph = torch.cuda.CUDAGraph()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # what is loaded and allocated on first use
            for _ in range(3):
                x.grad = None
                (F.cross_entropy(x, self.index) + F.mse_loss(x, self.t)).backward()
        torch.cuda.current_stream().wait_stream(side)
        x.grad = None
        with torch.cuda.graph(graph):
            loss = F.cross_entropy(x, self.index) + F.mse_loss(x, self.t)
            loss.backward()
        for seed in (7, 8):
            with torch.no_grad():
                x.copy_(rand(64, 100, seed=seed))
            graph.replay()
            leaf = x.detach().double().requires_grad_()
            want = P.cross_entropy(leaf, self.index) + P.mse_loss(leaf, self.t.double())
            want.backward()
            torch.testing.assert_close(loss.double(), want, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(x.grad.double(), leaf.grad, rtol=1e-4, atol=1e-8)

    def test_streams_have_handles_of_their_own(self):
        values = []
        for _ in range(4):
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                values.append(F.mse_loss(self.x, self.t))
            torch.cuda.current_stream().wait_stream(stream)
        want = P.mse_loss(self.x, self.t)
        for value in values:
            torch.testing.assert_close(value, want)

    def test_a_bad_class_is_told_by_a_check(self):
        bad = self.index.clone()
        bad[5] = 100
        x = self.x.clone().requires_grad_()
        loss = F.cross_entropy(x, bad)
        loss.backward()
        self.assertTrue(loss.isnan())
        self.assertEqual(x.grad[5].abs().max(), 0)
        with self.assertRaisesRegex(IndexError, "row 5"):
            fused_loss.check()
        fused_loss.check()

    def test_a_loss_scale_reaches_float16(self):
        model = torch.nn.Linear(100, 100)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cuda")
        losses = []
        for _ in range(20):
            optimizer.zero_grad()
            with torch.autocast("cuda", dtype=torch.float16):
                loss = F.cross_entropy(model(self.x), self.index)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            losses.append(loss.item())
        self.assertLess(losses[-1], 0.8 * losses[0])

    def test_tensors_of_two_devices_are_refused(self):
        with self.assertRaisesRegex(ValueError, "expected a tensor on cuda:0, got one on cpu"):
            F.mse_loss(self.x, self.t.cpu())


if __name__ == "__main__":
    unittest.main()
