"""Read what the user has, as rows by role.

`arguments` is what the user says, `readers` read files and data sets, `columns` and `image_columns` find the columns,
`sources` split the rows of one data set into training and held-out ones, `run_data` joins the sources of a run.
"""
