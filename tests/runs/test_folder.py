from csr_hf.runs.folder import RunFolder


def test_everything_a_run_writes_lies_inside_but_shared_embeddings(tmp_path):
    folder = RunFolder.of(tmp_path / "runs" / "mine")
    names = [name for name, value in vars(RunFolder).items() if isinstance(value, property)]
    names = [name for name in names if name not in ("is_run", "measured", "contents", "combinations", "has_texts")]
    places = {name: getattr(folder, name) for name in names}
    assert len(set(places.values())) == len(places)
    outside = {name for name, place in places.items() if not place.is_relative_to(folder.path)}
    assert outside == {"embeddings"}
    assert folder.embeddings == tmp_path / "runs" / "embeddings"


def test_a_run_has_a_head_and_a_recipe(tmp_path):
    folder = RunFolder.of(tmp_path)
    assert not folder.is_run
    folder.model.mkdir()
    (folder.model / "config.json").write_text("{}")
    assert not folder.is_run
    assert list(folder.missing(folder.model, folder.index, folder.recipe)) == ["index", "recipe.yaml"]
    folder.recipe.write_text("")
    assert folder.is_run


def test_the_files_of_a_real_run_are_those_that_it_names(finished_run):
    folder = RunFolder.of(finished_run / "first")
    assert folder.is_run
    needed = (folder.model_recipe, folder.index, folder.results, folder.plot, folder.log)
    assert not list(folder.missing(*needed, folder.checkpoints))
    known = {path.name for path in (*needed, folder.model, folder.recipe, folder.checkpoints, folder.state)} | {
        "results.md"
    }
    assert {path.name for path in folder.path.iterdir()} <= known
