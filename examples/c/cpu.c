// Cross-entropy on the CPU from C: value and gradient of four rows of three classes, one of them ignored.
//
//     cc examples/c/cpu.c $(pkg-config --cflags --libs fused_loss) -o cpu && ./cpu
#include <fused_loss.h>
#include <math.h>
#include <stdio.h>

int main(void) {
    const float logits[4][3] = {{2.0f, -1.0f, 0.5f}, {0.1f, 0.2f, 0.3f}, {9.0f, 9.0f, 9.0f}, {-3.0f, 0.0f, 3.0f}};
    const int64_t targets[4] = {0, 2, -100, 2};
    float loss, grad[4][3];

    fl_handle* cpu;
    if (fl_cpu(&cpu) != FL_OK) return puts(fl_last_error()), 1;
    printf("%s\n", fl_describe(cpu));

    fl_cross_entropy_options options;
    fl_cross_entropy_options_init(&options);
    options.label_smoothing = 0.1f;

    fl_call call;
    fl_call_init(&call);  // f32, the mean
    call.input = (fl_in){logits, 12};
    call.target = (fl_in){targets, 4};
    call.target_kind = FL_TARGET_I64;
    call.outer = 4, call.classes = 3;
    call.value = (fl_out){&loss, 1};
    call.grad_input = (fl_out){grad, 12};
    if (fl_cross_entropy(cpu, &options, &call) != FL_OK) return puts(fl_last_error()), 1;

    printf("loss %.6f\n", loss);
    for (int row = 0; row < 4; row++) printf("%9.6f %9.6f %9.6f\n", grad[row][0], grad[row][1], grad[row][2]);

    // A sum in one pass, with the value of each term: 0.25 of a distillation from the first row's logits, which all rows are told.
    float teacher[4][3], terms[3], sum;
    for (int row = 0; row < 4; row++)
        for (int k = 0; k < 3; k++) teacher[row][k] = logits[0][k];
    const fl_term both[2] = {{FL_TERM_CROSS_ENTROPY, 1.0f, &options}, {FL_TERM_DISTILLATION, 0.25f, NULL}};
    call.third = (fl_in){teacher, 12};
    call.terms = (fl_out){terms, 3};
    call.value = (fl_out){&sum, 1};
    if (fl_sum(cpu, both, 2, &call) != FL_OK) return puts(fl_last_error()), 1;
    printf("sum %.6f of %.6f and 0.25 * %.6f\n", sum, terms[0], terms[2]);
    call.third = (fl_in){NULL, 0};
    call.terms = (fl_out){NULL, 0};

    // What is wrong with a call is told, and nothing is written.
    call.target.len = 3;
    const fl_status status = fl_cross_entropy(cpu, &options, &call);
    printf("%s: %s\n", fl_status_name(status), fl_last_error());

    fl_destroy(cpu);
    // PyTorch: cross_entropy(logits, targets, label_smoothing=0.1) is 0.5847333
    const int whole = terms[0] == loss && fabsf(sum - (terms[0] + 0.25f * terms[2])) < 1e-6f;
    return fabsf(loss - 0.5847333f) < 1e-5f && whole && status == FL_ERROR_LENGTH ? 0 : 1;
}
