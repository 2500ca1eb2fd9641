from csr_hf.evaluation.metrics import KNNAccuracy, LinearProbeAccuracy
from csr_hf.evaluation.probes import knn_accuracy, linear_probe_accuracy


def test_metrics_of_evaluate_need_no_download(labeled):
    train, train_labels, test, test_labels = labeled
    data = {"predictions": test, "references": test_labels}
    known = {"train": train, "train_labels": train_labels}
    assert KNNAccuracy().compute(**data, **known, k=3) == {"knn_accuracy@3": knn_accuracy(*labeled, k=3)}
    probe = LinearProbeAccuracy()
    for start in range(0, 100, 25):
        probe.add_batch(predictions=test[start : start + 25], references=test_labels[start : start + 25])
    assert probe.compute(**known) == {"linear_probe_accuracy": linear_probe_accuracy(*labeled)}
