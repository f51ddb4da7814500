"Measures of images and masks, their intervals, and the feature networks that some of them need."
