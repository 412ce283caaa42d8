// Overlap of bounding boxes (x1, y1, x2, y2), `src/loss/boxes.rs`. With I the area of the intersection, U that of the union, C that of the
// smallest box around both, D its squared diagonal, d the squared distance of the centres:
//
//     IoU:   l = 1 - I / (U + eps)
//     GIoU:  adds (C - U) / (C + eps)
//     DIoU:  adds d / (D + eps)
//     CIoU:  adds to that alpha v, v = 4 / pi^2 (atan(w_t / h_t) - atan(w_p / h_p))^2, alpha = v / (1 - I / (U + eps) + v + eps), a constant
//
// A box is a row of four: a thread has it to itself.
#include "skeleton/rowwise.cuh"

// One axis of two boxes, the prediction from p1 to p2 and the target from t1 to t2.
struct Axis {
    float size_p, size_t, overlap, hull;
    float centre;         // from the target's to the prediction's
    float share1, share2; // of the edges of the overlap, the prediction's: 1, 0, or half of an edge that they have in common

    FL static float share(float mine, float other) { return mine > other ? 1.0f : (mine < other ? 0.0f : 0.5f); }

    FL Axis(float p1, float p2, float t1, float t2) {
        const bool first = p1 > t1, last = p2 < t2;
        size_p = p2 - p1, size_t = t2 - t1;
        overlap = (last ? p2 : t2) - (first ? p1 : t1);
        hull = (last ? t2 : p2) - (first ? t1 : p1);
        centre = 0.5f * ((p1 - t1) + (p2 - t2));
        share1 = share(p1, t1), share2 = share(-p2, -t2);
    }
};

// The derivatives of a loss for what an axis has; `edges` for the edges of prediction and target.
struct Slopes {
    float size_p = 0.0f, size_t = 0.0f, overlap = 0.0f, hull = 0.0f, centre = 0.0f;

    FL void edges(const Axis& a, float& p1, float& p2, float& t1, float& t2) const {
        const float s1 = a.share1, s2 = a.share2, half = 0.5f * centre;
        p1 = half - s1 * overlap - (1.0f - s1) * hull - size_p;
        p2 = half + s2 * overlap + (1.0f - s2) * hull + size_p;
        t1 = -half - (1.0f - s1) * overlap - s1 * hull - size_t;
        t2 = -half + (1.0f - s2) * overlap + s2 * hull + size_t;
    }
};

struct BoxIou {
    BoxIouParams p;

    FL float eval(const Axis& x, const Axis& y, Slopes& dx, Slopes& dy) const {
        const bool touch = x.overlap > 0.0f && y.overlap > 0.0f;
        const float shared = touch ? x.overlap * y.overlap : 0.0f;
        const float united = x.size_p * y.size_p + x.size_t * y.size_t - shared;
        const float inv = 1.0f / (united + p.eps);
        // Of the union, to which the sizes add and from which what is shared is taken.
        float on_union = shared * inv * inv;
        const float on_shared = -inv;
        float value = ((united - shared) + p.eps) * inv;
        const float miss = value;
        if (p.hull) {
            const float hull = x.hull * y.hull, inv_hull = 1.0f / (hull + p.eps);
            value += (hull - united) * inv_hull;
            on_union -= inv_hull;
            const float on_hull = (united + p.eps) * inv_hull * inv_hull;
            dx.hull += on_hull * y.hull;
            dy.hull += on_hull * x.hull;
        }
        if (p.centre) {
            const float inv_diagonal = 1.0f / ((x.hull * x.hull + y.hull * y.hull) + p.eps);
            const float share = (x.centre * x.centre + y.centre * y.centre) * inv_diagonal;
            value += share;
            dx.centre = 2.0f * x.centre * inv_diagonal;
            dy.centre = 2.0f * y.centre * inv_diagonal;
            dx.hull -= 2.0f * share * inv_diagonal * x.hull;
            dy.hull -= 2.0f * share * inv_diagonal * y.hull;
        }
        if (p.aspect) {
            const float four_by_pi_squared = 0.40528473f;
            const float angle = atanf(x.size_t / y.size_t) - atanf(x.size_p / y.size_p);
            const float v = four_by_pi_squared * angle * angle;
            const float alpha = v / (miss + v + p.eps);
            value += alpha * v;
            const float slope = 2.0f * four_by_pi_squared * alpha * angle;
            const float of_p = slope / (x.size_p * x.size_p + y.size_p * y.size_p);
            const float of_t = slope / (x.size_t * x.size_t + y.size_t * y.size_t);
            dx.size_p -= of_p * y.size_p;
            dy.size_p += of_p * x.size_p;
            dx.size_t += of_t * y.size_t;
            dy.size_t -= of_t * x.size_t;
        }
        const float on_overlap = touch ? on_shared - on_union : 0.0f;
        dx.overlap = on_overlap * y.overlap;
        dy.overlap = on_overlap * x.overlap;
        dx.size_p += on_union * y.size_p;
        dy.size_p += on_union * x.size_p;
        dx.size_t += on_union * y.size_t;
        dy.size_t += on_union * x.size_t;
        return value;
    }

    template <class Row> FL float row(Row& row) const {
        float x1 = 0.0f, y1 = 0.0f, x2 = 0.0f, y2 = 0.0f, a1 = 0.0f, b1 = 0.0f, a2 = 0.0f, b2 = 0.0f;
        fl::first<fl::ALL>(row, 0.0f, [&](int k, float x, float t) {
            if (k == 0) x1 = x, a1 = t;
            if (k == 1) y1 = x, b1 = t;
            if (k == 2) x2 = x, a2 = t;
            if (k == 3) y2 = x, b2 = t;
        });
        const Axis x(x1, x2, a1, a2), y(y1, y2, b1, b2);
        Slopes dx, dy;
        const float value = eval(x, y, dx, dy);
        if (row.wants_grad()) {
            dx.edges(x, x1, x2, a1, a2);
            dy.edges(y, y1, y2, b1, b2);
            const float scale = row.scale;
            auto pick = [=](int k, float g0, float g1, float g2, float g3) {
                return scale * (k == 0 ? g0 : (k == 1 ? g1 : (k == 2 ? g2 : g3)));
            };
            if (row.wants_grad_target()) fl::put_target(row, 0.0f, [&](int k, float, float) { return pick(k, a1, b1, a2, b2); });
            fl::put_blindly(row, [&](int k) { return pick(k, x1, y1, x2, y2); });
        }
        return value;
    }
};

// A thread a row alone: four numbers are never shared.
FL_ROWWISE_COLUMNS(box_iou, BoxIou, BoxIouParams)
