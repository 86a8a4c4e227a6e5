/* Sinkhorn in C: 20 times columns, then rows, of every n x n matrix of logits. */
#include <math.h>
#include <stddef.h>

void sinkhorn(const double *logits, double *m, size_t count, size_t n) {
  for (size_t at = 0; at < count; at++, logits += n * n, m += n * n) {
    for (size_t j = 0; j < n; j++) {
      double largest = logits[j];
      for (size_t i = 1; i < n; i++) largest = fmax(largest, logits[i * n + j]);
      for (size_t i = 0; i < n; i++) m[i * n + j] = exp(logits[i * n + j] - largest);
    }
    for (int step = 0; step < 20; step++) {
      for (size_t j = 0; j < n; j++) {
        double sum = 0;
        for (size_t i = 0; i < n; i++) sum += m[i * n + j];
        for (size_t i = 0; i < n; i++) m[i * n + j] /= sum;
      }
      for (size_t i = 0; i < n; i++) {
        double sum = 0;
        for (size_t j = 0; j < n; j++) sum += m[i * n + j];
        for (size_t j = 0; j < n; j++) m[i * n + j] /= sum;
      }
    }
  }
}
