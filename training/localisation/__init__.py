"""Where a picture was edited, and how: training of deeplabv3plus and resnet50 (`python -m training.localisation`)."""
