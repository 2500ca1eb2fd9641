"""Image tasks of mteb."""

import pytest


def test_image_tasks_of_mteb(modal_encoder, tmp_path):
    import mteb
    from mteb.mocks import MOCK_MIEB_TASK_GRID

    from csr_hf.evaluation.mteb import MTEBEncoder

    model = MTEBEncoder.from_head(modal_encoder.backbone, modal_encoder.head, tmp_path)
    assert model.mteb_model_meta.modalities == ["text", "image"]
    passed = []
    for task in MOCK_MIEB_TASK_GRID:
        if "VisionCentricQA" in task.metadata.name:
            with pytest.raises(TypeError, match="a tower for each of them, none for both"):
                mteb.evaluate(model, task, cache=None, co2_tracker=False, show_progress_bar=False)
            continue
        found = mteb.evaluate(model, task, cache=None, co2_tracker=False, show_progress_bar=False)
        passed += [result.task_name for result in found.task_results]
    assert len(passed) == 13
